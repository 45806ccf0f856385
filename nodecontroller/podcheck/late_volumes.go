package podcheck

import (
	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

// OfLateVolumes judges whether a volume that one node has at a time will come free for a pod that is made again only after the
// commit: it does not while another pod has it on the source's node, and one that waits for it elsewhere may be faster. others
// are the pods of the pod's namespace.
func OfLateVolumes(pod *corev1.Pod, storage Storage, others []*corev1.Pod) []obstacle.Finding {
	var found []obstacle.Finding
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim == nil {
			continue
		}
		claim := v.PersistentVolumeClaim.ClaimName
		c, pv, missing := storage.volumeOf(claim)
		if missing != nil || isShared(c, pv, v) {
			continue
		}
		for _, other := range others {
			if other.UID != pod.UID && !ended(other) && uses(other, claim) {
				found = append(found, obstacle.Refuse("pod %s has claim %s too, which one node has at a time: while it does, the volume may not come to the destination",
					other.Name, claim))
			}
		}
	}
	return found
}

func uses(pod *corev1.Pod, claim string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim {
			return true
		}
	}
	return false
}
