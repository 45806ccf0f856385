package podcheck

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

func TestAVolumeOfOneNodeThatAnotherPodHasKeepsALatePodWhereItIs(t *testing.T) {
	another := func(change ...func(*corev1.Pod)) *corev1.Pod {
		p := movable(change...)
		p.Name, p.UID = "another", types.UID("another")
		return p
	}
	over := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	waiting := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending; p.Spec.NodeName = "" }
	for name, c := range map[string]struct {
		pod     *corev1.Pod
		storage Storage
		others  []*corev1.Pod
		refused bool
	}{
		"nobody but the pod itself":    {movable(claim(false)), bound(csi, corev1.ReadWriteOnce), []*corev1.Pod{movable(claim(false))}, false},
		"one that runs":                {movable(claim(false)), bound(csi, corev1.ReadWriteOnce), []*corev1.Pod{another(claim(false))}, true},
		"one that only reads":          {movable(claim(false)), bound(csi, corev1.ReadWriteOnce), []*corev1.Pod{another(claim(true))}, true},
		"one that waits for it":        {movable(claim(false)), bound(csi, corev1.ReadWriteOnce), []*corev1.Pod{another(claim(false), waiting)}, true},
		"one that has ended":           {movable(claim(false)), bound(csi, corev1.ReadWriteOnce), []*corev1.Pod{another(claim(false), over)}, false},
		"one without it":               {movable(claim(false)), bound(csi, corev1.ReadWriteOnce), []*corev1.Pod{another()}, false},
		"a volume that all nodes have": {movable(claim(false)), bound(csi, corev1.ReadWriteMany), []*corev1.Pod{another(claim(false))}, false},
		"a pod without volumes":        {movable(), Storage{}, []*corev1.Pod{another(claim(false))}, false},
	} {
		said := obstacle.List(OfLateVolumes(c.pod, c.storage, c.others))
		if refused := strings.Contains(said, "pod another has claim c too"); refused != c.refused {
			t.Errorf("%s: %q", name, said)
		}
	}
}
