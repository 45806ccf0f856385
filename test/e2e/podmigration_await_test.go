package e2e

import (
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// How the tests follow a PodMigration, and the moments that they wait for.

// await returns the PodMigration when it is as wanted, and nil when it is gone. One that is over otherwise fails the test.
func (v *traveller) await(m *v1alpha1.PodMigration, what string, is func(*v1alpha1.PodMigration) bool) *v1alpha1.PodMigration {
	v.t.Helper()
	ctx := within(v.t, 3*time.Minute)
	last := m
	for ctx.Err() == nil {
		now, found := v.follow(ctx, m, is)
		if found {
			return now
		}
		if now != nil {
			last = now
		}
		select { // the API server is away, or the watch has been long
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	v.t.Fatalf("it never came: %s; the PodMigration has %+v", what, last.Status)
	return nil
}

// follow looks at the PodMigration and then at its changes until the watch of it ends. It misses none: one that goes between the
// look and the watch is told by the watch.
func (v *traveller) follow(ctx context.Context, m *v1alpha1.PodMigration, is func(*v1alpha1.PodMigration) bool) (last *v1alpha1.PodMigration, found bool) {
	one := []client.ListOption{client.InNamespace(m.Namespace), client.MatchingFields{"metadata.name": m.Name}}
	list := new(v1alpha1.PodMigrationList)
	if err := v.user.List(ctx, list, one...); err != nil {
		return nil, false
	}
	if len(list.Items) == 0 {
		return nil, true
	}
	if last = &list.Items[0]; v.sees(last, is) {
		return last, true
	}
	w, err := v.user.Watch(ctx, list, append(one, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})...)
	if err != nil {
		return last, false
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		now, ok := e.Object.(*v1alpha1.PodMigration)
		if !ok {
			return last, false
		}
		if e.Type == watch.Deleted {
			return nil, true
		}
		if last = now; v.sees(now, is) {
			return now, true
		}
	}
	return last, false
}

// sees takes in a state of a PodMigration, and says whether it is as wanted.
func (v *traveller) sees(m *v1alpha1.PodMigration, is func(*v1alpha1.PodMigration) bool) bool {
	if p := m.Status.DestinationPod; p != nil && p.IP != "" && v.w != nil {
		v.w.redis.AlsoAt(v.address(p.IP)) // the client may look there as soon as it likes
	}
	return is(m)
}

// The moments of a migration; once there it stays.
func reached(p v1alpha1.Phase) func(*v1alpha1.PodMigration) bool {
	way := []v1alpha1.Phase{
		v1alpha1.PhasePending, v1alpha1.PhasePreparing, v1alpha1.PhaseStarted, v1alpha1.PhaseMigrating, v1alpha1.PhaseMigrationComplete, v1alpha1.PhaseSucceeded,
	}
	return func(m *v1alpha1.PodMigration) bool {
		return m.Status.Phase.Over() || slices.Index(way, m.Status.Phase) >= slices.Index(way, p)
	}
}

func hasCondition(kind string) func(*v1alpha1.PodMigration) bool {
	return func(m *v1alpha1.PodMigration) bool {
		return m.Status.Phase.Over() || meta.IsStatusConditionTrue(m.Status.Conditions, kind)
	}
}

func inRounds(m *v1alpha1.PodMigration) bool {
	return m.Status.Phase.Over() || m.Status.BytesSent > 1<<20
}

func isFrozen(m *v1alpha1.PodMigration) bool {
	return m.Status.Phase.Over() || m.Status.Phase.Committed() || len(m.Status.Containers) > 0 && m.Status.Containers[0].State == v1alpha1.ContainerFrozen
}

// isSettled: it is over, and nothing of it is left but the object.
func isSettled(m *v1alpha1.PodMigration) bool {
	return m.Status.Phase.Over() && len(m.Finalizers) == 0 && meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionCleaned)
}
