package admission

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

const (
	kindStatefulSet = "StatefulSet"
	// suffixLength is of what the API server appends to a generateName
	// (kubernetes: apiserver, pkg/storage/names).
	suffixLength = 5
)

// claimable is the migration whose destination the pod, about to be made by an
// owner, is to be: of those that fit the oldest, nil if none does. The claim of
// the one returned may be the pod's own already, by a request whose answer got lost.
func claimable(pod *corev1.Pod, migrations []v1alpha1.PodMigration) *v1alpha1.PodMigration {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || !ofClass(pod) {
		return nil
	}
	var fit []*v1alpha1.PodMigration
	for i := range migrations {
		if m := &migrations[i]; offers(m) && m.Status.Owner.UID == owner.UID && takesPlaceOf(pod, m) {
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return slices.MinFunc(fit, func(a, b *v1alpha1.PodMigration) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
}

func ofClass(pod *corev1.Pod) bool {
	return pod.Spec.RuntimeClassName != nil && *pod.Spec.RuntimeClassName == v1alpha1.RuntimeClass
}

// offers says whether the migration waits for an owner's pod. One that is
// cancelled does not any more; one to whose commit the cluster has agreed may be committed all the same.
func offers(m *v1alpha1.PodMigration) bool {
	s := &m.Status
	if s.Owner == nil || s.SourcePod == nil || s.DestinationNode == "" || s.Migration == "" || s.Phase.Over() {
		return false
	}
	if !m.Agreed() && (m.Spec.Cancel || m.DeletionTimestamp != nil) {
		return false
	}
	return s.Claim == v1alpha1.ClaimOpen || s.Claim == v1alpha1.ClaimTaken && mayClaimAgain(m)
}

// mayClaimAgain says whether a claim that is taken can be given once more: to a
// StatefulSet's pod, of whose name there is one at most. If it is created again
// before it was restored, then the time before came to nothing, and what it would
// start from scratch has its state in the migration.
func mayClaimAgain(m *v1alpha1.PodMigration) bool {
	return m.Status.Owner.Kind == kindStatefulSet && !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionRestored)
}

// takesPlaceOf says whether the pod is another of the source's, not one of the
// same owner beside it.
func takesPlaceOf(pod *corev1.Pod, m *v1alpha1.PodMigration) bool {
	source := m.Status.SourcePod.Name
	if m.Status.Owner.Kind == kindStatefulSet {
		return pod.Name == source
	}
	if !indexed(pod) {
		return true
	}
	// An indexed Job's pods are named by their index (kubernetes:
	// pkg/controller/job, podGenerateNameWithIndex).
	return pod.GenerateName != "" && strings.HasPrefix(source, pod.GenerateName) && len(source) == len(pod.GenerateName)+suffixLength
}

func indexed(pod *corev1.Pod) bool {
	_, ok := pod.Annotations["batch.kubernetes.io/job-completion-index"]
	return ok
}
