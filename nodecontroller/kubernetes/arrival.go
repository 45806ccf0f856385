package kubernetes

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// arrivals is what the destination's node does about the pods that come to it: it
// tells their migrations of them, and removes those whose migration came to
// nothing, also when the source's node is no longer there to do so.
type arrivals struct{ *Controller }

// Reconcile looks at one pod of this node.
func (a arrivals) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	pod := new(corev1.Pod)
	err := a.client.Get(ctx, r.NamespacedName, pod)
	switch {
	case apierrors.IsNotFound(err):
		return ctrl.Result{}, a.vanished(ctx, r, "")
	case err != nil:
		return ctrl.Result{}, err
	case !pod.DeletionTimestamp.IsZero():
		return ctrl.Result{}, a.vanished(ctx, r, pod.UID)
	}
	id := pod.Annotations[v1alpha1.AnnotationMigration]
	if id == "" {
		return ctrl.Result{}, nil
	}
	if a.underWay(ctx, pod, id) {
		return ctrl.Result{}, nil
	}
	m, err := migrationOf(ctx, a.reader, pod, id)
	if err != nil {
		return ctrl.Result{}, err
	}
	active := a.engine.Active(id)
	if active && m != nil && neverAgreed(m) {
		if err := a.engine.CallOff(id); err == nil {
			a.log.Info("the pod is not held any more: the cluster had not agreed to its commit", "migration", id)
		}
		return ctrl.Result{RequeueAfter: lookAgain}, nil
	}
	if decideArrival(m, active) == arrivalRemove {
		// Its owner would make another in its place, fresh, while the source's pod is
		// not its own again: that is put back by the source's node.
		if away, err := a.released(ctx, m); err != nil || away {
			return ctrl.Result{RequeueAfter: lookAgain}, err
		}
		a.log.Info("removing a pod whose migration came to nothing", "migration", id, "pod", r.String())
		return ctrl.Result{}, a.removePod(ctx, pod, 0)
	}
	if m == nil {
		a.log.Warn("a pod bears the id of a migration that no PodMigration asked for", "migration", id, "pod", r.String())
		return ctrl.Result{}, nil
	}
	if left, is := a.dropped(m); is {
		if left > 0 {
			return ctrl.Result{RequeueAfter: left}, nil
		}
		return ctrl.Result{}, a.noteDropped(ctx, m)
	}
	if m.Agreed() && ready(pod) {
		if err := a.noteRestored(ctx, m, pod); err != nil {
			return ctrl.Result{}, err
		}
		return ctrl.Result{}, a.unmark(ctx, m, pod)
	}
	return ctrl.Result{}, a.introduce(ctx, m, pod)
}

// noteRestored writes down that a late pod runs, which the source's node may not be
// there to do: another pod of its name is none of the migration's from here on.
func (a arrivals) noteRestored(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) error {
	if !m.Status.LatePod || meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionRestored) {
		return nil
	}
	m = m.DeepCopy()
	m.Status.DestinationPod = &v1alpha1.PodReference{Name: pod.Name, UID: pod.UID, IP: pod.Status.PodIP}
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionRestored, Status: metav1.ConditionTrue, Reason: "Runs", Message: "the pod runs on " + a.node, ObservedGeneration: m.Generation,
	})
	return client.IgnoreNotFound(a.client.Status().Update(ctx, m)) // on a conflict this pod is looked at again
}

// droppedAfter is how long a source is left to say itself that a migration to which the cluster had agreed came to nothing.
const droppedAfter = 10 * time.Second

// dropped says whether the cluster has agreed to the commit of a migration that this node, its destination, has dropped, and how
// long its source is left to say so.
func (a arrivals) dropped(m *v1alpha1.PodMigration) (left time.Duration, is bool) {
	since := m.AgreedSince()
	if since == nil || m.Status.CommitTime != nil || m.Status.Phase.Over() || !a.engine.Dropped(idOf(m)) {
		return 0, false
	}
	return time.Until(since.Add(droppedAfter)), true
}

// noteDropped takes the cluster's agreement back: the source, which does not say so, needs this node's vote to commit, and it cannot
// be had any more. Whoever finds that the source is gone knows then that nothing is in doubt.
func (a arrivals) noteDropped(ctx context.Context, m *v1alpha1.PodMigration) error {
	m = m.DeepCopy()
	disagree(&m.Status, "Dropped", "node "+a.node+" has dropped what it had of the pod: nothing can be committed", m.Generation)
	return client.IgnoreNotFound(a.client.Status().Update(ctx, m)) // on a conflict this pod is looked at again
}

// vanished ends the migrations that wait for a pod which was deleted: kubelet does
// not look at it while its last container is being started, and would end it when
// it runs. One to whose commit the cluster has agreed is its source's to end, which hears of it by this node's daemon.
func (a arrivals) vanished(ctx context.Context, r ctrl.Request, uid types.UID) error {
	all := new(v1alpha1.PodMigrationList)
	if err := a.client.List(ctx, all, client.InNamespace(r.Namespace)); err != nil {
		return err
	}
	for i := range all.Items {
		m := &all.Items[i]
		if m.Status.DestinationNode != a.node || !misses(m, r.Name, uid) {
			continue
		}
		why := fmt.Errorf("the destination's pod %s was deleted", r.Name)
		if m.Agreed() {
			a.engine.Unwant(idOf(m), why)
		} else if err := a.end(ctx, m, v1alpha1.PhaseFailed, why.Error()); err != nil {
			return err
		}
	}
	return nil
}

// misses says whether a migration waits for a pod that is gone. One that it has not
// seen yet may only be to come, and one that comes late is made again. uid is empty if no pod of the name is there.
func misses(m *v1alpha1.PodMigration, pod string, uid types.UID) bool {
	p := m.Status.DestinationPod
	return p != nil && p.Name == pod && p.UID != "" && (uid == "" || uid == p.UID) &&
		!m.Status.Phase.Over() && !m.Status.Phase.Committed() && !(m.Status.LatePod && m.Agreed())
}

// arrivalAction is what is done about a pod that bears a migration's id.
type arrivalAction int

const (
	// arrivalKeep: its migration is under way, or carried through.
	arrivalKeep arrivalAction = iota
	// arrivalRemove: it will never be restored.
	arrivalRemove
)

// decideArrival says what becomes of a destination's pod. m is nil if no
// PodMigration is its: the shim will not start such a pod, and a look at it may
// help somebody. active says that this node's daemon still works at it: what is
// held or committed here is never removed on the word of an object.
func decideArrival(m *v1alpha1.PodMigration, active bool) arrivalAction {
	switch {
	case active, m == nil:
		return arrivalKeep
	case m.Status.Phase == v1alpha1.PhaseFailed, m.Status.Phase == v1alpha1.PhaseCancelled:
		return arrivalRemove
	}
	return arrivalKeep
}

// neverAgreed says whether a migration ended without the cluster's having agreed to its
// commit: no source commits without that.
func neverAgreed(m *v1alpha1.PodMigration) bool {
	return (m.Status.Phase == v1alpha1.PhaseFailed || m.Status.Phase == v1alpha1.PhaseCancelled) && m.Status.CommitTime == nil && m.AgreedSince() == nil
}

// released says whether a migration's source pod is out of its owner's selection.
func (a arrivals) released(ctx context.Context, m *v1alpha1.PodMigration) (bool, error) {
	if m.Status.Owner == nil || m.Status.SourcePod == nil {
		return false, nil
	}
	pod := new(corev1.Pod)
	err := a.reader.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Status.SourcePod.Name}, pod)
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return pod.UID == m.Status.SourcePod.UID && (pod.Annotations[v1alpha1.AnnotationReleased] != "" || metav1.GetControllerOf(pod) == nil), nil
}

// ready says whether all of a pod runs: the last container of a destination's pod
// does only when the migration is committed.
func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.ContainersReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// underWay says whether there is nothing to do about a pod before another word is written of its
// migration, which is looked at again then. It goes by the cache: the API server need not be asked for
// each word of a pod that may be frozen at that moment.
func (a arrivals) underWay(ctx context.Context, pod *corev1.Pod, id string) bool {
	m, err := migrationOf(ctx, a.client, pod, id)
	if err != nil || m == nil || m.Status.Phase.Over() {
		return false
	}
	if _, dropped := a.dropped(m); dropped {
		return false
	}
	return introduced(m, pod) && !(m.Agreed() && ready(pod))
}

// migrationOf is the PodMigration by which a pod comes, as a reader has it, nil if there is none.
func migrationOf(ctx context.Context, from client.Reader, pod *corev1.Pod, id string) (*v1alpha1.PodMigration, error) {
	name := pod.Annotations[v1alpha1.AnnotationMovedBy]
	if name == "" || !strings.HasPrefix(id, "pm-") {
		return nil, nil
	}
	m := new(v1alpha1.PodMigration)
	err := from.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: name}, m)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case idOf(m) != id:
		return nil, nil
	}
	return m, nil
}

// introduce writes into the status which pod the destination's is.
func (a arrivals) introduce(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) error {
	if introduced(m, pod) {
		return nil
	}
	before := m.DeepCopy()
	is := referenceTo(pod)
	m.Status.DestinationPod = &is
	return client.IgnoreNotFound(a.client.Status().Patch(ctx, m, client.MergeFrom(before)))
}

func referenceTo(pod *corev1.Pod) v1alpha1.PodReference {
	return v1alpha1.PodReference{Name: pod.Name, UID: pod.UID, IP: pod.Status.PodIP}
}

// introduced says whether a status names a pod as the destination's, or must not as it is the source's.
func introduced(m *v1alpha1.PodMigration, pod *corev1.Pod) bool {
	is, was := referenceTo(pod), m.Status.DestinationPod
	return was != nil && (*was == is || was.UID == is.UID && is.IP == "") || m.Status.SourcePod != nil && m.Status.SourcePod.UID == pod.UID
}
