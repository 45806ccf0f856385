package attendance

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// verdict is what is to be said of a migration.
type verdict struct {
	phase   v1alpha1.Phase
	reason  string // one word in CamelCase, for conditions
	message string
}

// write puts a verdict into the status of an object as it was read: whoever else has
// written meanwhile wins.
func (a *attendant) write(ctx context.Context, m *v1alpha1.PodMigration, v verdict) error {
	before := m.DeepCopy()
	a.apply(m, v)
	if equality.Semantic.DeepEqual(before.Status, m.Status) {
		return nil
	}
	if err := a.client.Status().Patch(ctx, m, guarded(before)); err != nil {
		return fmt.Errorf("status of PodMigration %s: %w", m.Name, err)
	}
	return nil
}

// apply changes the status as a verdict says.
func (a *attendant) apply(m *v1alpha1.PodMigration, v verdict) {
	s := &m.Status
	s.Message = v.message
	if s.SourceNode == "" {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionTakenUp, Status: metav1.ConditionFalse, Reason: v.reason, Message: v.message, ObservedGeneration: m.Generation,
		})
	}
	if v.phase.Over() && !s.Phase.Over() {
		now := metav1.NewTime(a.now())
		s.CompletionTime = &now
		if s.Claim == v1alpha1.ClaimOpen {
			s.Claim = "" // no pod is to come any more
		}
		if s.SourceNode == "" {
			a.applyCleaned(m, "NothingBegun")
		}
	}
	s.Phase = v.phase
}

func (a *attendant) applyCleaned(m *v1alpha1.PodMigration, reason string) {
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionCleaned, Status: metav1.ConditionTrue, Reason: reason,
		Message: "nothing of the migration is left but this object", ObservedGeneration: m.Generation,
	})
}

// release lets an object go of which nothing is left.
func (a *attendant) release(ctx context.Context, m *v1alpha1.PodMigration) error {
	before := m.DeepCopy()
	a.applyCleaned(m, "NodeGone")
	if !equality.Semantic.DeepEqual(before.Status, m.Status) {
		if err := a.client.Status().Patch(ctx, m, guarded(before)); err != nil {
			return fmt.Errorf("status of PodMigration %s: %w", m.Name, err)
		}
	}
	before = m.DeepCopy()
	if !controllerutil.RemoveFinalizer(m, v1alpha1.Finalizer) {
		return nil
	}
	if err := a.client.Patch(ctx, m, guarded(before)); err != nil {
		return fmt.Errorf("finalizer of PodMigration %s: %w", m.Name, err)
	}
	return nil
}

// guarded is a patch that loses against whoever wrote since before was read.
func guarded(before client.Object) client.Patch {
	return client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
}
