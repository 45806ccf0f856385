package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// The source's pod of a ReplicaSet or a Job is out of its owner's selection while it is moved, and the destination's counts in its place. If
// that one is removed before the commit, by a taint of its node say, the owner misses a pod, and makes one at once. But the migration comes to
// nothing then, and the source's pod, which runs on, is the owner's again: with one pod too many the owner would choose whom it ends, by its
// own rules (kubernetes: pkg/controller, ActivePodsWithRanks), and may choose the one with the memory, or another of its pods that is on the
// same node. So none is made meanwhile.

// mayReturn says whether the source's pod of a migration may be on its way back to the owner of a pod that is about to be made, by what is
// written of the migration. One that is committed never is.
func mayReturn(pod *corev1.Pod, m *v1alpha1.PodMigration) bool {
	owner, s := metav1.GetControllerOf(pod), &m.Status
	switch {
	case owner == nil, !ofClass(pod), s.Owner == nil, s.SourcePod == nil, s.Owner.UID != owner.UID, s.Owner.Kind == kindStatefulSet:
		return false
	case len(m.Finalizers) == 0, s.Phase == v1alpha1.PhaseSucceeded, meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionCommitted):
		return false
	}
	return takesPlaceOf(pod, m)
}

// returning is a migration whose source's pod is its owner's again soon, and has no destination's pod in its place: the pod that is about to be
// made would be one too many. nil if there is none.
func (h *claimHandler) returning(ctx context.Context, pod *corev1.Pod, migrations []v1alpha1.PodMigration) (*v1alpha1.PodMigration, error) {
	for i := range migrations {
		m := &migrations[i]
		if !mayReturn(pod, m) {
			continue
		}
		source, err := h.podOf(ctx, m.Namespace, m.Status.SourcePod)
		if err != nil {
			return nil, err
		}
		if source == nil || !released(source) {
			continue // it is gone, or its owner's
		}
		there, err := h.podOf(ctx, m.Namespace, m.Status.DestinationPod)
		if err != nil {
			return nil, err
		}
		if there == nil {
			return m, nil
		}
	}
	return nil, nil
}

// podOf is the pod that is meant if it is there, and to stay; nil otherwise.
func (h *claimHandler) podOf(ctx context.Context, namespace string, is *v1alpha1.PodReference) (*corev1.Pod, error) {
	if is == nil {
		return nil, nil
	}
	pod := new(corev1.Pod)
	err := h.live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: is.Name}, pod)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("pod %s: %w", is.Name, err)
	case err != nil, pod.UID != is.UID, !pod.DeletionTimestamp.IsZero(), pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return nil, nil
	}
	return pod, nil
}

// released says whether a pod is out of its owner's selection, or is not back in it yet.
func released(pod *corev1.Pod) bool {
	return pod.Annotations[v1alpha1.AnnotationReleased] != "" || metav1.GetControllerOf(pod) == nil
}
