package admission

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// An eviction names a pod, and who evicts asks again by that name until there is none:
// kubectl drain does so every five seconds, and looks at the pod's UID only when an
// eviction has passed. A StatefulSet's pod has moved by then, and the one that is called
// so now runs on another node. To evict or to move that one would undo the drain's work.

// lateAsking is how long after a move who evicted the pod before may still ask.
const lateAsking = time.Minute

// arrivedBy is the migration by which a pod has just come from another node under the
// name that it had there, nil if it has not.
func arrivedBy(pod *corev1.Pod, of []v1alpha1.PodMigration, now time.Time) *v1alpha1.PodMigration {
	for i := range of {
		m := &of[i]
		s := m.Status
		is := s.DestinationPod != nil && s.DestinationPod.UID == pod.UID && s.SourcePod != nil && s.SourcePod.Name == pod.Name
		if is && s.Phase == v1alpha1.PhaseSucceeded && s.SourceNode != pod.Spec.NodeName && now.Sub(ended(m)) < lateAsking {
			return m
		}
	}
	return nil
}

// decideArrived says that the pod that is meant is gone, if by all that is known it is.
func (h *evictionHandler) decideArrived(ctx context.Context, pod *corev1.Pod) (verdict, error) {
	var of v1alpha1.PodMigrationList
	if err := h.live.List(ctx, &of, client.InNamespace(pod.Namespace)); err != nil {
		return verdict{}, fmt.Errorf("migrations of the namespace: %w", err)
	}
	m := arrivedBy(pod, of.Items, h.now())
	if m == nil {
		return verdict{}, nil
	}
	if leaving, err := h.leaving(ctx, pod.Spec.NodeName); err != nil || leaving {
		return verdict{}, err
	}
	return verdict{action: gone, why: fmt.Sprintf("it has moved from node %s to node %s by PodMigration %s: to have it leave that node as well, cordon the node, or evict the pod by its UID, or a minute later",
		m.Status.SourceNode, m.Status.DestinationNode, m.Name)}, nil
}

// leaving says whether pods are to leave a node: whoever drains one cordons it first.
func (h *evictionHandler) leaving(ctx context.Context, name string) (bool, error) {
	node := new(corev1.Node)
	if err := h.live.Get(ctx, types.NamespacedName{Name: name}, node); err != nil {
		return false, fmt.Errorf("node %s, to which the pod has just moved: %w", name, err)
	}
	return node.Spec.Unschedulable, nil
}
