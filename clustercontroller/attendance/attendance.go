// Package attendance looks after the PodMigrations to which no node attends: those
// that nobody takes up, as their pod is nowhere or on a node without a working
// godwit-node, and those whose source node has left the cluster for good. It says in
// their status what is the matter, ends them when nothing can come of them any more,
// and lets go of those that nobody else will.
//
// It never moves, makes or removes a pod, and decides nothing that a node still might:
// every word that it writes is guarded by the object's version, as the commit is. What
// nodes do about PodMigrations is in nodecontroller/kubernetes.
package attendance

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

const (
	// grace is what the pod's node has to take a migration up before anything is said.
	grace = 10 * time.Second
	// untakenAgain is the pause between two looks at one that nobody takes up.
	untakenAgain = 10 * time.Second
	// takenAgain is the pause between two looks at one that a node has taken up, or
	// has still to clear away.
	takenAgain = 30 * time.Second
)

// Add has the manager's leader look after PodMigrations.
func Add(m manager.Manager) error {
	a := &attendant{client: m.GetClient(), live: m.GetAPIReader(), now: time.Now, nodes: newNodes(m.GetAPIReader(), time.Now)}
	err := builder.ControllerManagedBy(m).Named("attendance").
		For(&v1alpha1.PodMigration{}, builder.WithPredicates(predicate.Funcs{UpdateFunc: tells})).
		Complete(a)
	if err != nil {
		return fmt.Errorf("PodMigrations that no node attends to: %w", err)
	}
	return nil
}

// Cached has a manager's cache keep of each PodMigration only what is asked of it:
// there may be thousands that are over.
func Cached() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{&v1alpha1.PodMigration{}: {Transform: slim}}
}

// slim leaves out what neither this package nor the drains look for in the cache.
// Whoever writes an object reads it live.
func slim(object any) (any, error) {
	m, ok := object.(*v1alpha1.PodMigration)
	if !ok {
		return object, nil
	}
	s := &m.Status
	slimmed := &v1alpha1.PodMigration{
		TypeMeta: m.TypeMeta,
		Spec:     v1alpha1.PodMigrationSpec{PodName: m.Spec.PodName, Timeout: m.Spec.Timeout, Cancel: m.Spec.Cancel},
		Status:   v1alpha1.PodMigrationStatus{Phase: s.Phase, SourceNode: s.SourceNode, CompletionTime: s.CompletionTime},
	}
	m.ObjectMeta.DeepCopyInto(&slimmed.ObjectMeta)
	slimmed.ManagedFields, slimmed.Annotations = nil, nil
	return slimmed, nil
}

// tells says whether a change is one to act upon: not, for example, progress, which
// is written each second.
func tells(e event.UpdateEvent) bool {
	was, ok := e.ObjectOld.(*v1alpha1.PodMigration)
	now, too := e.ObjectNew.(*v1alpha1.PodMigration)
	if !ok || !too {
		return true
	}
	return was.Status.Phase != now.Status.Phase || was.Status.SourceNode != now.Status.SourceNode || was.Spec.Cancel != now.Spec.Cancel ||
		hasFinalizer(was) != hasFinalizer(now) || was.DeletionTimestamp.IsZero() != now.DeletionTimestamp.IsZero()
}

func hasFinalizer(m *v1alpha1.PodMigration) bool {
	return controllerutil.ContainsFinalizer(m, v1alpha1.Finalizer)
}

// attendant reconciles PodMigrations.
type attendant struct {
	client client.Client // reads from the cache
	live   client.Reader
	now    func() time.Time
	nodes  *nodes
}

// Reconcile looks at one of them. What is in the cache says whether there is
// something to look for; what is written is decided by what is live.
func (a *attendant) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var m v1alpha1.PodMigration
	if err := a.client.Get(ctx, r.NamespacedName, &m); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	var again time.Duration
	var err error
	switch {
	case m.Untaken():
		again, err = a.attendUntaken(ctx, &m)
	case m.Status.SourceNode != "" && (!m.Status.Phase.Over() || hasFinalizer(&m)):
		again, err = a.attendTaken(ctx, &m)
	}
	switch {
	case apierrors.IsNotFound(err):
		return reconcile.Result{}, nil
	case apierrors.IsConflict(err): // somebody attends to it
		return reconcile.Result{RequeueAfter: untakenAgain}, nil
	}
	return reconcile.Result{RequeueAfter: again}, err
}

// read is the object as it is, instead of what the cache has of it.
func (a *attendant) read(ctx context.Context, m *v1alpha1.PodMigration) (*v1alpha1.PodMigration, error) {
	live := new(v1alpha1.PodMigration)
	if err := a.live.Get(ctx, client.ObjectKeyFromObject(m), live); err != nil {
		return nil, fmt.Errorf("PodMigration %s: %w", m.Name, err)
	}
	return live, nil
}
