package kubernetes

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// errNotAdopted: a pod that was put back is not its owner's again yet.
var errNotAdopted = errors.New("the pod's owner has not taken it back yet")

// clean clears away what a migration that is over left in the cluster, and lets
// its object go.
func (c *Controller) clean(ctx context.Context, m *v1alpha1.PodMigration) (ctrl.Result, error) {
	live := new(v1alpha1.PodMigration)
	if err := c.reader.Get(ctx, client.ObjectKeyFromObject(m), live); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !live.Status.Phase.Over() || !hasFinalizer(live) {
		return ctrl.Result{}, nil // what was read was old
	}
	var err error
	if live.Status.Phase == v1alpha1.PhaseSucceeded {
		err = c.settle(ctx, live)
	} else {
		err = c.undo(ctx, live)
	}
	switch {
	case errors.Is(err, errNotAdopted), apierrors.IsConflict(err):
		return ctrl.Result{RequeueAfter: lookAgain}, nil
	case err != nil:
		return ctrl.Result{}, err
	}
	if !meta.IsStatusConditionTrue(live.Status.Conditions, v1alpha1.ConditionCleaned) {
		meta.SetStatusCondition(&live.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionCleaned, Status: metav1.ConditionTrue, Reason: "NothingLeft", Message: "nothing of the migration is left but this object", ObservedGeneration: live.Generation,
		})
		if err := c.client.Status().Update(ctx, live); err != nil {
			return ctrl.Result{}, ignoreConflict(err)
		}
	}
	before := live.DeepCopy()
	controllerutil.RemoveFinalizer(live, v1alpha1.Finalizer)
	return ctrl.Result{}, ignoreConflict(client.IgnoreNotFound(c.client.Patch(ctx, live, metadataOf(before))))
}

// settle makes a pod that has come one like any other: started again, after a
// crash of its node say, it starts from its image.
func (c *Controller) settle(ctx context.Context, m *v1alpha1.PodMigration) error {
	pods, err := c.arrivals(ctx, m)
	if err != nil {
		return err
	}
	for i := range pods {
		if err := c.unmark(ctx, m, &pods[i]); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) unmark(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) error {
	err := c.changePod(ctx, client.ObjectKeyFromObject(pod), string(pod.UID), func(pod *corev1.Pod) error {
		if pod.Annotations[v1alpha1.AnnotationMigration] == idOf(m) {
			delete(pod.Annotations, v1alpha1.AnnotationMigration)
		}
		return nil
	})
	return client.IgnoreNotFound(err)
}

// settleArrival does settle as soon as the pod runs. One that has been introduced is known: its namespace
// may have a thousand others, which are not looked through in the moment in which it needs its node's
// processors most.
func (s *session) settleArrival(ctx context.Context) {
	m, err := s.current(ctx)
	if err == nil {
		err = s.call(ctx, func(ctx context.Context) error {
			is := m.Status.DestinationPod
			if is == nil || is.UID == "" {
				return s.c.settle(ctx, m)
			}
			return s.c.unmark(ctx, m, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: is.Name, UID: is.UID}})
		})
	}
	if err != nil {
		s.log.Warn("the pod's annotation is taken off later", "error", err)
	}
}

// undo brings the cluster back to before a migration that came to nothing. The
// source is its owner's again before the destination's pod goes: else the owner
// would start another in its place.
func (c *Controller) undo(ctx context.Context, m *v1alpha1.PodMigration) error {
	if m.Status.Claim == v1alpha1.ClaimOpen {
		m.Status.Claim = ""
		if err := c.client.Status().Update(ctx, m); err != nil {
			return err
		}
	}
	if m.Status.Owner != nil {
		if err := c.giveBack(ctx, m); err != nil {
			return err
		}
	}
	pods, err := c.arrivals(ctx, m)
	if err != nil {
		return err
	}
	for i := range pods {
		if err := c.removePod(ctx, &pods[i], 0); err != nil {
			return err
		}
	}
	return c.dropSource(ctx, m)
}

// giveBack puts the source's pod back into its owner's selection, and sees that
// the owner has noticed.
func (c *Controller) giveBack(ctx context.Context, m *v1alpha1.PodMigration) error {
	key := client.ObjectKey{Namespace: m.Namespace, Name: m.Status.SourcePod.Name}
	var pod *corev1.Pod
	err := c.changePod(ctx, key, string(m.Status.SourcePod.UID), func(p *corev1.Pod) error {
		pod = p
		_, err := putBack(p)
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case metav1.GetControllerOf(pod) == nil && c.ownerThere(ctx, m):
		return errNotAdopted
	}
	return nil
}

// ownerThere says whether the owner could take its pod back.
func (c *Controller) ownerThere(ctx context.Context, m *v1alpha1.PodMigration) bool {
	owner := new(metav1.PartialObjectMetadata)
	owner.APIVersion, owner.Kind = m.Status.Owner.APIVersion, m.Status.Owner.Kind
	err := c.reader.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Status.Owner.Name}, owner)
	return err == nil && owner.UID == m.Status.Owner.UID && owner.DeletionTimestamp.IsZero()
}

// dropSource deletes the source's pod of a failed migration if that was asked for.
func (c *Controller) dropSource(ctx context.Context, m *v1alpha1.PodMigration) error {
	keep := m.Spec.KeepSourceOnFailure == nil || *m.Spec.KeepSourceOnFailure
	if keep || m.Status.Phase != v1alpha1.PhaseFailed || m.Status.SourcePod == nil {
		return nil
	}
	uid := m.Status.SourcePod.UID
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Status.SourcePod.Name}}
	err := c.client.Delete(ctx, pod, client.Preconditions{UID: &uid})
	if apierrors.IsConflict(err) { // another of its name
		return nil
	}
	return client.IgnoreNotFound(err)
}

// arrivals are the pods that bear a migration's id.
func (c *Controller) arrivals(ctx context.Context, m *v1alpha1.PodMigration) ([]corev1.Pod, error) {
	if m.Status.DestinationPod == nil && m.Status.Claim != v1alpha1.ClaimTaken {
		return nil, nil // none was asked for
	}
	all := new(corev1.PodList)
	if err := c.reader.List(ctx, all, client.InNamespace(m.Namespace)); err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	var of []corev1.Pod
	for _, pod := range all.Items {
		if pod.Annotations[v1alpha1.AnnotationMigration] == idOf(m) {
			of = append(of, pod)
		}
	}
	return of, nil
}
