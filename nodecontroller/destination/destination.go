// Package destination makes a destination's pod object: of a bare pod a copy of
// the source's, of an owner's pod what its controller makes, adapted. It decides
// only how the object looks; who makes it and when is for others.
package destination

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// nodeNameField is the field by which node affinity names one node
// (kubernetes: pkg/apis/core/validation, ValidateNodeSelectorTerm; the DaemonSet
// controller binds its pods in the same way).
const nodeNameField = "metadata.name"

// Arrival says what is to become of a pod.
type Arrival struct {
	// Migration is its id, as the nodes know it.
	Migration string
	// PodMigration is the name of the object that asked for it.
	PodMigration string
	// Node is the destination.
	Node string
	// Images are, by container, the names under which the destination has the very
	// images of the source; a container that is not among them keeps its own.
	Images map[string]string
	// Hostname is what the source's processes have seen as their own: empty leaves
	// the pod's.
	Hostname string
}

// Hostname is the host name that kubelet gave to a pod's processes
// (kubernetes: pkg/kubelet/kubelet_pods.go, GeneratePodHostNameAndDomain, which
// cuts a name to 63 characters).
func Hostname(pod *corev1.Pod) string {
	if pod.Spec.Hostname != "" {
		return pod.Spec.Hostname
	}
	name := pod.Name
	if len(name) > 63 {
		name = name[:63]
		for len(name) > 0 && (name[len(name)-1] == '-' || name[len(name)-1] == '.') {
			name = name[:len(name)-1]
		}
	}
	return name
}

// Copy is the pod that takes a bare pod's place on another node: bound to it
// already, so no scheduler sees it.
func Copy(source *corev1.Pod, name string, a Arrival) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   source.Namespace,
			Name:        name,
			Labels:      clone(source.Labels),
			Annotations: clone(source.Annotations),
		},
		Spec: *source.Spec.DeepCopy(),
	}
	delete(pod.Annotations, v1alpha1.AnnotationReleased)
	if pod.Annotations[v1alpha1.AnnotationOrigin] == "" {
		pod.Annotations[v1alpha1.AnnotationOrigin] = source.Name
	}
	// What admission fills in anew, or what is of the stay on the source.
	pod.Spec.Priority = nil
	pod.Spec.EphemeralContainers = nil
	pod.Spec.SchedulingGates = nil
	arrive(pod, a)
	pod.Spec.NodeName = a.Node
	return pod
}

// NameOf is a new name for a bare pod that moves: that of before its first move,
// and what tells this one from those before.
func NameOf(source *corev1.Pod) string {
	const suffix = 5
	base := source.Annotations[v1alpha1.AnnotationOrigin]
	if base == "" {
		base = source.Name
	}
	if most := 253 - suffix - 1; len(base) > most {
		base = base[:most]
	}
	return base + "-" + utilrand.String(suffix)
}

// Adapt makes a pod that an owner's controller is about to create the
// destination's: it can run on that node only, and is restored there.
func Adapt(pod *corev1.Pod, a Arrival) {
	arrive(pod, a)
	bind(&pod.Spec, a.Node)
}

// arrive leaves out what has happened to the processes already: they come with
// what init containers and start hooks did.
func arrive(pod *corev1.Pod, a Arrival) {
	if pod.Annotations == nil {
		pod.Annotations = make(map[string]string, 2)
	}
	pod.Annotations[v1alpha1.AnnotationMigration] = a.Migration
	pod.Annotations[v1alpha1.AnnotationMovedBy] = a.PodMigration
	spec := &pod.Spec
	spec.InitContainers = slices.DeleteFunc(spec.InitContainers, func(c corev1.Container) bool { return !restartable(c) })
	for i := range spec.InitContainers {
		// kubelet makes the next container only when this one has started: by a
		// probe it never would, as all of them are restored together.
		spec.InitContainers[i].StartupProbe = nil
		arriveContainer(&spec.InitContainers[i], a)
	}
	for i := range spec.Containers {
		arriveContainer(&spec.Containers[i], a)
	}
	if spec.Hostname == "" {
		spec.Hostname = a.Hostname
	}
}

// restartable says whether an init container is a sidecar, which runs as long as
// the pod.
func restartable(c corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func arriveContainer(c *corev1.Container, a Arrival) {
	if image := a.Images[c.Name]; image != "" {
		c.Image = image
		if c.ImagePullPolicy != corev1.PullNever {
			c.ImagePullPolicy = corev1.PullIfNotPresent // it is there
		}
	}
	if c.Lifecycle == nil {
		return
	}
	c.Lifecycle.PostStart = nil
	if c.Lifecycle.PreStop == nil && c.Lifecycle.StopSignal == nil {
		c.Lifecycle = nil
	}
}

// bind lets a pod be scheduled to one node only, whatever else it asks for.
func bind(spec *corev1.PodSpec, node string) {
	only := corev1.NodeSelectorRequirement{Key: nodeNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	if spec.Affinity == nil {
		spec.Affinity = new(corev1.Affinity)
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = new(corev1.NodeAffinity)
	}
	required := spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil || len(required.NodeSelectorTerms) == 0 {
		required = &corev1.NodeSelector{NodeSelectorTerms: make([]corev1.NodeSelectorTerm, 1)}
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
	}
	// Terms are alternatives: each must name the node.
	for i := range required.NodeSelectorTerms {
		t := &required.NodeSelectorTerms[i]
		t.MatchFields = append(slices.DeleteFunc(t.MatchFields, func(r corev1.NodeSelectorRequirement) bool { return r.Key == nodeNameField }), only)
	}
}

func clone(m map[string]string) map[string]string {
	c := make(map[string]string, len(m)+2)
	for k, v := range m {
		c[k] = v
	}
	return c
}
