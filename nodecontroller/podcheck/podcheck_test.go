package podcheck

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

func ptr[T any](v T) *T { return &v }

// movable is a pod that nothing is in the way of, changed.
func movable(change ...func(*corev1.Pod)) *corev1.Pod {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x", UID: "x-uid", Annotations: map[string]string{}},
		Spec: corev1.PodSpec{
			NodeName:         "a",
			RuntimeClassName: ptr(v1alpha1.RuntimeClass),
			InitContainers:   []corev1.Container{{Name: "init"}, {Name: "sidecar", RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways)}},
			Containers:       []corev1.Container{{Name: "web"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning,
			InitContainerStatuses: []corev1.ContainerStatus{
				{Name: "init", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}},
				{Name: "sidecar", State: running},
			},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", State: running}},
		},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func ownedBy(kind string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: "owner", UID: "owner-uid", Controller: ptr(true)}}
	}
}

func annotated(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[key] = value }
}

func volume(s corev1.VolumeSource) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: s})
	}
}

func claim(readOnly bool) func(*corev1.Pod) {
	return volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: readOnly}})
}

// bound is storage in which claim c is bound to volume v.
func bound(source corev1.PersistentVolumeSource, modes ...corev1.PersistentVolumeAccessMode) Storage {
	return Storage{
		Claims: map[string]*corev1.PersistentVolumeClaim{"c": {
			Spec:   corev1.PersistentVolumeClaimSpec{VolumeName: "v", AccessModes: modes},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		}},
		Volumes: map[string]*corev1.PersistentVolume{"v": {
			ObjectMeta: metav1.ObjectMeta{Name: "v"},
			Spec:       corev1.PersistentVolumeSpec{PersistentVolumeSource: source, AccessModes: modes},
		}},
	}
}

var csi = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com"}}

func TestPodIsRefusedOrWarnedOfForWhatItIs(t *testing.T) {
	container := func(change func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
	}
	for _, c := range []struct {
		name    string
		change  func(*corev1.Pod)
		refused string
		warned  string
	}{
		{name: "a plain pod", change: func(*corev1.Pod) {}},
		{name: "of a ReplicaSet", change: ownedBy("ReplicaSet")},
		{name: "of a Job", change: ownedBy("Job")},
		{name: "of a DaemonSet", change: ownedBy("DaemonSet"), refused: "DaemonSet owner has one pod on each node"},
		{name: "of something else", change: ownedBy("ReplicationController"), refused: "its controller is ReplicationController owner"},
		{name: "static", change: annotated(corev1.MirrorPodAnnotationKey, "hash"), refused: "it is a static pod"},
		{name: "being deleted", change: func(p *corev1.Pod) { p.DeletionTimestamp = ptr(metav1.Now()) }, refused: "is being deleted"},
		{name: "pending", change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, refused: "is Pending, not Running"},
		{name: "arriving", change: annotated(v1alpha1.AnnotationMigration, "m-1"), refused: "arrives by migration m-1"},
		{name: "leaving", change: annotated(v1alpha1.AnnotationReleased, "{}"), refused: "another migration"},
		{name: "a container that crashes", change: func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		}, refused: "container web does not run (CrashLoopBackOff)"},
		{name: "a container that has ended", change: func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}
		}, refused: "container web has ended (Completed)"},
		{name: "a sidecar that has ended", change: func(p *corev1.Pod) {
			p.Status.InitContainerStatuses[1].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error"}}
		}, refused: "container sidecar has ended (Error)"},
		{name: "being debugged", change: func(p *corev1.Pod) {
			p.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "debugger", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		}, refused: "ephemeral container debugger runs"},
		{name: "another runtime class", change: func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("kata") }, refused: "its runtimeClassName is kata"},
		{name: "no runtime class", change: func(p *corev1.Pod) { p.Spec.RuntimeClassName = nil }, refused: "its runtimeClassName is none"},
		{name: "hostNetwork", change: func(p *corev1.Pod) { p.Spec.HostNetwork = true }, refused: "it has hostNetwork"},
		{name: "hostPID", change: func(p *corev1.Pod) { p.Spec.HostPID = true }, refused: "it has hostPID"},
		{name: "hostIPC", change: func(p *corev1.Pod) { p.Spec.HostIPC = true }, refused: "it has hostIPC"},
		{name: "shared processes", change: func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = ptr(true) }, refused: "it has shareProcessNamespace"},
		{name: "a user namespace", change: func(p *corev1.Pod) { p.Spec.HostUsers = ptr(false) }, refused: "it has hostUsers: false"},
		{name: "resource claims", change: func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}} }, refused: "it has resource claims (gpu)"},
		{name: "a deadline", change: func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(60)) }, warned: "activeDeadlineSeconds begins to count anew"},
		{name: "a terminal", change: container(func(c *corev1.Container) { c.TTY, c.Stdin = true, true }), refused: "container web has a terminal"},
		{name: "standard input", change: container(func(c *corev1.Container) { c.Stdin = true }), warned: "container web has stdin: true"},
		{name: "a device", change: container(func(c *corev1.Container) {
			c.Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse("1"), corev1.ResourceCPU: resource.MustParse("1")}
		}), refused: "container web uses example.com/gpu: devices"},
		{name: "huge pages", change: container(func(c *corev1.Container) {
			c.Resources.Limits = corev1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi")}
		})},
		{name: "a block device", change: container(func(c *corev1.Container) { c.VolumeDevices = []corev1.VolumeDevice{{Name: "disk"}} }), refused: "raw block device of volume disk"},
		{name: "mounts for its node", change: container(func(c *corev1.Container) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPropagation: ptr(corev1.MountPropagationBidirectional)}}
		}), refused: "with propagation to its node"},
		{name: "a seccomp profile of the node", change: container(func(c *corev1.Container) {
			c.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("strict.json")}}
		}), warned: "container web needs the seccomp profile strict.json"},
		{name: "an AppArmor profile of the node", change: func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr("strict")}}
		}, warned: "the pod needs the AppArmor profile strict"},
		{name: "an AppArmor profile by annotation", change: annotated(apparmorAnnotation+"web", "localhost/old"), warned: "container web needs the AppArmor profile old"},
	} {
		r := OfPod(movable(c.change), Storage{})
		if r.LatePod {
			t.Errorf("%s: its pod would come late: %v", c.name, r.LateBecause)
		}
		expect(t, c.name, r.Findings, c.refused, c.warned)
	}
}

// expect wants no more refusals and warnings than the one each that is named.
func expect(t *testing.T, name string, found []obstacle.Finding, refused, warned string) {
	t.Helper()
	for _, c := range []struct {
		kind string
		got  []obstacle.Finding
		want string
	}{{"refusals", obstacle.Refusals(found), refused}, {"warnings", obstacle.Warnings(found), warned}} {
		if (c.want == "") != (len(c.got) == 0) || len(c.got) > 1 || !strings.Contains(obstacle.List(c.got), c.want) {
			t.Errorf("%s: %s %q, want %q", name, c.kind, obstacle.List(c.got), c.want)
		}
	}
}

func TestVolumesComeAlongAreSharedOrAreRefused(t *testing.T) {
	disk := corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt"}}
	dir := corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt"}}
	pending := bound(csi, corev1.ReadWriteOnce)
	pending.Claims["c"].Status.Phase = corev1.ClaimPending
	unknown := bound(csi, corev1.ReadWriteOnce)
	delete(unknown.Volumes, "v")
	for _, c := range []struct {
		name    string
		change  []func(*corev1.Pod)
		storage Storage
		refused string
		warned  string
		late    string
	}{
		{name: "emptyDir", change: []func(*corev1.Pod){volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})}},
		{name: "emptyDir in memory", change: []func(*corev1.Pod){volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})}},
		{name: "emptyDir of huge pages", change: []func(*corev1.Pod){volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePages}})}, refused: "emptyDir of medium HugePages"},
		{name: "what every pod gets anew", change: []func(*corev1.Pod){
			volume(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}), volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}),
			volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}), volume(corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{}})}},
		{name: "hostPath", change: []func(*corev1.Pod){volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}})}, refused: "the directory /data of its node: set the pod's annotation godwit.dev/hostpath-shared"},
		{name: "shared hostPath", change: []func(*corev1.Pod){annotated(v1alpha1.AnnotationHostPathShared, "true"), volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}})}},
		{name: "NFS", change: []func(*corev1.Pod){volume(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}})}},
		{name: "iSCSI", change: []func(*corev1.Pod){volume(corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{}})}, late: "volume data can be attached to one node only"},
		{name: "a claim template", change: []func(*corev1.Pod){volume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}})}, refused: "by a claim template"},
		{name: "inline CSI", change: []func(*corev1.Pod){volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "d"}})}, refused: "is made by d for each pod"},
		{name: "inline CSI to read", change: []func(*corev1.Pod){volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "d", ReadOnly: ptr(true)}})}, warned: "is made by d for each pod"},
		{name: "of no known kind", change: []func(*corev1.Pod){volume(corev1.VolumeSource{})}, refused: "of a kind whose content cannot be moved"},
		{name: "no claim", change: []func(*corev1.Pod){claim(false)}, refused: "claim c does not exist"},
		{name: "a claim not bound", change: []func(*corev1.Pod){claim(false)}, storage: pending, refused: "claim c is Pending"},
		{name: "a claim without its volume", change: []func(*corev1.Pod){claim(false)}, storage: unknown, refused: "volume v of claim c does not exist"},
		{name: "ReadWriteMany", change: []func(*corev1.Pod){claim(false)}, storage: bound(csi, corev1.ReadWriteMany)},
		{name: "ReadOnlyMany to read", change: []func(*corev1.Pod){claim(true)}, storage: bound(csi, corev1.ReadOnlyMany)},
		{name: "ReadOnlyMany and ReadWriteOnce to write", change: []func(*corev1.Pod){claim(false)}, storage: bound(csi, corev1.ReadOnlyMany, corev1.ReadWriteOnce), late: "claim c is ReadWriteOnce"},
		{name: "ReadWriteOnce", change: []func(*corev1.Pod){claim(false)}, storage: bound(csi, corev1.ReadWriteOnce), late: "claim c is ReadWriteOnce"},
		{name: "ReadWriteOncePod", change: []func(*corev1.Pod){claim(false)}, storage: bound(csi, corev1.ReadWriteOncePod), late: "claim c is ReadWriteOncePod"},
		{name: "a local disk", change: []func(*corev1.Pod){claim(false)}, storage: bound(disk, corev1.ReadWriteOnce), refused: "on its node's own disk (v of claim c)"},
		{name: "a directory that every node has", change: []func(*corev1.Pod){annotated(v1alpha1.AnnotationHostPathShared, "true"), claim(false)}, storage: bound(dir, corev1.ReadWriteOnce)},
		{name: "a StatefulSet's pod", change: []func(*corev1.Pod){ownedBy("StatefulSet")}, late: "StatefulSet owner"},
	} {
		r := OfPod(movable(c.change...), c.storage)
		expect(t, c.name, r.Findings, c.refused, c.warned)
		if r.LatePod != (c.late != "") || !strings.Contains(strings.Join(r.LateBecause, "; "), c.late) {
			t.Errorf("%s: late %v because of %q, want %q", c.name, r.LatePod, r.LateBecause, c.late)
		}
	}
}

func TestAllThatIsInTheWayIsOneMessage(t *testing.T) {
	r := OfPod(movable(func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.HostIPC = true, true }), Storage{})
	err := obstacle.Error("default/x", "b", r.Findings)
	if err == nil || !strings.HasPrefix(err.Error(), "pod default/x cannot be moved to node b: (1) it has hostNetwork") || !strings.Contains(err.Error(), "; (2) it has hostIPC") {
		t.Error(err)
	}
}
