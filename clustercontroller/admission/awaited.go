package admission

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// awaited is a migration whose claim another pod of the same owner has taken, and
// whose pod nobody has seen yet; nil if there is none. That pod may be about to be
// made, or the API server refused it after all, by a quota say: then the source's node
// opens the claim again. Until it is known, the owner's next pod must not start afresh
// in its place.
func awaited(pod *corev1.Pod, migrations []v1alpha1.PodMigration) *v1alpha1.PodMigration {
	owner := metav1.GetControllerOf(pod)
	if owner == nil || !ofClass(pod) {
		return nil
	}
	for i := range migrations {
		m := &migrations[i]
		s := &m.Status
		if s.Claim != v1alpha1.ClaimTaken || s.DestinationPod != nil || s.Owner == nil || s.SourcePod == nil || s.Owner.UID != owner.UID {
			continue
		}
		unwanted := s.Phase.Over() || !m.Agreed() && (m.Spec.Cancel || m.DeletionTimestamp != nil)
		if !unwanted && s.Owner.Kind != kindStatefulSet && takesPlaceOf(pod, m) {
			return m
		}
	}
	return nil
}
