package admission

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// addSweep has the manager's leader remove the PodMigrations of drains that have
// ended: nobody owns them, and nobody else would.
func addSweep(m manager.Manager, keep time.Duration) error {
	s := &sweep{m.GetClient(), keep, time.Now}
	if err := builder.ControllerManagedBy(m).Named("ended-drains").For(&v1alpha1.PodMigration{}, builder.WithPredicates(predicate.NewPredicateFuncs(isDrain))).Complete(s); err != nil {
		return fmt.Errorf("removal of ended drains: %w", err)
	}
	return nil
}

func isDrain(o client.Object) bool { return o.GetLabels()[v1alpha1.LabelDrain] != "" }

// sweep reconciles drains.
type sweep struct {
	client client.Client
	keep   time.Duration
	now    func() time.Time
}

// Reconcile removes a drain when its pod's have all ended long enough ago.
func (s *sweep) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var m v1alpha1.PodMigration
	if err := s.client.Get(ctx, r.NamespacedName, &m); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	uid := m.Labels[v1alpha1.LabelDrain]
	if uid == "" || m.DeletionTimestamp != nil || !m.Status.Phase.Over() {
		return reconcile.Result{}, nil // its end brings us back
	}
	var all v1alpha1.PodMigrationList
	if err := s.client.List(ctx, &all, client.InNamespace(m.Namespace), client.MatchingLabels{v1alpha1.LabelDrain: uid}); err != nil {
		return reconcile.Result{}, fmt.Errorf("drains of pod %s: %w", uid, err)
	}
	if left := remaining(all.Items, s.now(), s.keep); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if err := s.client.Delete(ctx, &m, client.Preconditions{UID: &m.UID}); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("remove drain %s: %w", m.Name, err)
	}
	return reconcile.Result{}, nil
}

// remaining is how long a pod's drains stay: all for as long as the last, so that
// attempts are counted together.
func remaining(drains []v1alpha1.PodMigration, now time.Time, keep time.Duration) time.Duration {
	left := time.Duration(0)
	for i := range drains {
		m := &drains[i]
		if !m.Status.Phase.Over() {
			return keep
		}
		left = max(left, ended(m).Add(keep).Sub(now))
	}
	return left
}
