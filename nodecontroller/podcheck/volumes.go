package podcheck

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

// Storage is what a pod's claims are.
type Storage struct {
	Claims  map[string]*corev1.PersistentVolumeClaim // by name, of the pod's namespace
	Volumes map[string]*corev1.PersistentVolume      // by name
}

// volumeOf is the volume that a claim of the pod is bound to, or why there is
// none.
func (s Storage) volumeOf(claim string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, *obstacle.Finding) {
	refuse := func(format string, args ...any) *obstacle.Finding {
		f := obstacle.Refuse(format, args...)
		return &f
	}
	c := s.Claims[claim]
	if c == nil {
		return nil, nil, refuse("claim %s does not exist", claim)
	}
	if c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName == "" {
		return nil, nil, refuse("claim %s is %s, not Bound", claim, orUnknown(string(c.Status.Phase)))
	}
	v := s.Volumes[c.Spec.VolumeName]
	if v == nil {
		return nil, nil, refuse("volume %s of claim %s does not exist", c.Spec.VolumeName, claim)
	}
	return c, v, nil
}

// ofVolumes judges where the content of each volume is after the move: it comes
// along, it is the destination's own, or both nodes see the same storage.
func ofVolumes(pod *corev1.Pod, storage Storage, r *Result) {
	shared := pod.Annotations[v1alpha1.AnnotationHostPathShared] == "true"
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch s := v.VolumeSource; {
		case s.EmptyDir != nil:
			if s.EmptyDir.Medium != "" && s.EmptyDir.Medium != corev1.StorageMediumMemory {
				r.add(obstacle.Refuse("volume %s is an emptyDir of medium %s, whose content cannot be copied", v.Name, s.EmptyDir.Medium))
			}
		case s.ConfigMap != nil, s.Secret != nil, s.Projected != nil, s.DownwardAPI != nil, s.Image != nil:
			// The destination's pod has its own.
		case s.HostPath != nil:
			if !shared {
				r.add(notShared(v.Name, "the directory "+s.HostPath.Path+" of its node"))
			}
		case s.PersistentVolumeClaim != nil:
			ofClaim(v, storage, shared, r)
		case s.Ephemeral != nil:
			r.add(obstacle.Refuse("volume %s is made with each pod, by a claim template: the destination's would be empty; use a claim of its own", v.Name))
		case s.CSI != nil:
			r.add(ofInlineCSI(v))
		case s.NFS != nil, s.CephFS != nil, s.Glusterfs != nil, s.AzureFile != nil, s.Quobyte != nil:
			// Any number of nodes may have it mounted.
		case oneNode(&s):
			r.late("volume %s can be attached to one node only", v.Name)
		default:
			r.add(obstacle.Refuse("volume %s is of a kind whose content cannot be moved", v.Name))
		}
	}
}

func notShared(volume, what string) obstacle.Finding {
	return obstacle.Refuse("volume %s is %s: set the pod's annotation %s to \"true\" if it is the same storage on every node",
		volume, what, v1alpha1.AnnotationHostPathShared)
}

func ofInlineCSI(v *corev1.Volume) obstacle.Finding {
	if v.CSI.ReadOnly != nil && *v.CSI.ReadOnly {
		return obstacle.Warn("volume %s is made by %s for each pod: the destination's is made anew", v.Name, v.CSI.Driver)
	}
	return obstacle.Refuse("volume %s is made by %s for each pod, and the destination's would not have its content: use a claim", v.Name, v.CSI.Driver)
}

// oneNode says whether a volume is a disk, which one node has at a time.
func oneNode(s *corev1.VolumeSource) bool {
	return s.ISCSI != nil || s.FC != nil || s.RBD != nil || s.AWSElasticBlockStore != nil || s.GCEPersistentDisk != nil || s.AzureDisk != nil ||
		s.Cinder != nil || s.VsphereVolume != nil || s.PortworxVolume != nil || s.ScaleIO != nil || s.StorageOS != nil || s.PhotonPersistentDisk != nil
}

// ofClaim judges a claim by its volume and access modes.
func ofClaim(v *corev1.Volume, storage Storage, shared bool, r *Result) {
	name := v.PersistentVolumeClaim.ClaimName
	c, pv, missing := storage.volumeOf(name)
	switch {
	case missing != nil:
		r.add(*missing)
	case (pv.Spec.HostPath != nil || pv.Spec.Local != nil) && !shared:
		r.add(notShared(v.Name, "on its node's own disk ("+pv.Name+" of claim "+name+")"))
	case isShared(c, pv, v):
		// Attached on both sides, or every node has it, as the user says.
	case offers(c, pv, corev1.ReadWriteOncePod):
		r.late("claim %s is ReadWriteOncePod: one pod may use it", name)
	default:
		r.late("claim %s is ReadWriteOnce: one node may have it attached", name)
	}
}

// isShared says whether several nodes may have a claim's volume as the pod has it.
func isShared(c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, v *corev1.Volume) bool {
	return pv.Spec.HostPath != nil || pv.Spec.Local != nil || // the user says so, or the pod is refused
		offers(c, pv, corev1.ReadWriteMany) || offers(c, pv, corev1.ReadOnlyMany) && v.PersistentVolumeClaim.ReadOnly
}

// offers says whether a claim asks for an access mode that its volume has.
func offers(c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, mode corev1.PersistentVolumeAccessMode) bool {
	return slices.Contains(c.Spec.AccessModes, mode) && slices.Contains(pv.Spec.AccessModes, mode)
}
