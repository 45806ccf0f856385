package podcheck

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/resource"
	scheduling "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

// Node is a node that a pod may go to.
type Node struct {
	*corev1.Node
	// Pods are those bound to it.
	Pods []*corev1.Pod
	// Unfit is why its godwit-node cannot take the pod in, its CPU for example;
	// empty if nothing is known against it.
	Unfit string
}

// OfNode judges whether a node can take a pod in: what the scheduler and kubelet
// would ask of it, of which a pod that is bound to a node sees only the latter.
func OfNode(pod *corev1.Pod, node Node, storage Storage) []obstacle.Finding {
	if node.Name == pod.Spec.NodeName {
		return []obstacle.Finding{obstacle.Refuse("the pod is on node %s already", node.Name)}
	}
	var found []obstacle.Finding
	if node.Unfit != "" {
		found = append(found, obstacle.Refuse("%s", node.Unfit))
	}
	if why := notReady(node.Node); why != "" {
		found = append(found, obstacle.Refuse("node %s is not Ready: %s", node.Name, why))
	}
	found = append(found, ofPlace(pod, node.Node)...)
	found = append(found, ofRoom(pod, node)...)
	found = append(found, ofNeighbours(pod, node)...)
	return append(found, ofReach(pod, node.Node, storage)...)
}

func notReady(node *corev1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return orUnknown(c.Message)
		}
		if c.Type == corev1.NodeReady {
			return ""
		}
	}
	return "its kubelet has not said so"
}

// ofPlace is about taints, node selector and node affinity.
func ofPlace(pod *corev1.Pod, node *corev1.Node) []obstacle.Finding {
	var found []obstacle.Finding
	repels := func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}
	taint, repelled := scheduling.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, repels, false)
	switch {
	case repelled && taint.Key == corev1.TaintNodeUnschedulable, !repelled && node.Spec.Unschedulable && !toleratesCordon(pod):
		found = append(found, obstacle.Refuse("node %s is cordoned: uncordon it", node.Name))
	case repelled:
		found = append(found, obstacle.Refuse("node %s has the taint %s, which the pod does not tolerate", node.Name, taint.ToString()))
	}
	match, err := nodeaffinity.NewRequiredNodeAffinity(pod.Spec.NodeSelector, ownAffinity(pod)).Match(node)
	switch {
	case err != nil:
		found = append(found, obstacle.Refuse("the pod's node affinity cannot be read: %v", err))
	case !match:
		found = append(found, obstacle.Refuse("node %s does not match the pod's node selector or affinity", node.Name))
	}
	return found
}

func toleratesCordon(pod *corev1.Pod) bool {
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return scheduling.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &cordon, false)
}

// ownAffinity is the affinity that the pod's author gave it: one that has moved
// is bound to its node by package destination besides.
func ownAffinity(pod *corev1.Pod) *corev1.Affinity {
	a := pod.Spec.Affinity
	if pod.Annotations[v1alpha1.AnnotationMovedBy] == "" || a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return a
	}
	a = a.DeepCopy()
	required := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	bound := func(r corev1.NodeSelectorRequirement) bool { return r.Key == metav1.ObjectNameField }
	any := false
	for i := range required.NodeSelectorTerms {
		t := &required.NodeSelectorTerms[i]
		t.MatchFields = slices.DeleteFunc(t.MatchFields, bound)
		any = any || len(t.MatchFields)+len(t.MatchExpressions) == 0
	}
	if any { // a term that asks for nothing matches nothing
		a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = nil
	}
	return a
}

// free is what is left of a node by what its pods ask for.
func free(node Node) corev1.ResourceList {
	left := node.Status.Allocatable.DeepCopy()
	take := func(name corev1.ResourceName, q corev1.ResourceList) {
		have, asked := left[name], q[name]
		have.Sub(asked)
		left[name] = have
	}
	for _, p := range node.Pods {
		if ended(p) {
			continue
		}
		asked := requests(p)
		for name := range left {
			take(name, asked)
		}
	}
	return left
}

// requests are what a pod takes of a node, itself included.
func requests(pod *corev1.Pod) corev1.ResourceList {
	asked := resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true})
	asked[corev1.ResourcePods] = onePod
	return asked
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// ofRoom is about capacity.
func ofRoom(pod *corev1.Pod, node Node) []obstacle.Finding {
	left := free(node)
	asked := requests(pod)
	var short []string
	for name, want := range asked {
		if want.IsZero() {
			continue
		}
		if have := left[name]; have.Cmp(want) < 0 {
			short = append(short, fmt.Sprintf("%s of %s %s", have.String(), want.String(), name))
		}
	}
	if len(short) == 0 {
		return nil
	}
	slices.Sort(short)
	return []obstacle.Finding{obstacle.Refuse("node %s has no room: free are %s", node.Name, strings.Join(short, ", "))}
}

// ofNeighbours is about ports of the node and pods that the pod avoids.
func ofNeighbours(pod *corev1.Pod, node Node) []obstacle.Finding {
	var found []obstacle.Finding
	for _, p := range node.Pods {
		if ended(p) || p.UID == pod.UID {
			continue
		}
		for _, port := range hostPorts(&pod.Spec) {
			if slices.ContainsFunc(hostPorts(&p.Spec), func(q corev1.ContainerPort) bool { return conflict(port, q) }) {
				found = append(found, obstacle.Refuse("port %d of node %s is pod %s/%s's", port.HostPort, node.Name, p.Namespace, p.Name))
			}
		}
		if avoids(pod, p) || avoids(p, pod) {
			found = append(found, obstacle.Refuse("pod %s/%s on node %s and the pod may not share a node, by anti-affinity", p.Namespace, p.Name, node.Name))
		}
	}
	return found
}

func hostPorts(spec *corev1.PodSpec) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, c := range running(spec) {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				ports = append(ports, p)
			}
		}
	}
	return ports
}

func conflict(a, b corev1.ContainerPort) bool {
	protocol := func(p corev1.ContainerPort) corev1.Protocol {
		if p.Protocol == "" {
			return corev1.ProtocolTCP
		}
		return p.Protocol
	}
	everywhere := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return a.HostPort == b.HostPort && protocol(a) == protocol(b) && (a.HostIP == b.HostIP || everywhere(a.HostIP) || everywhere(b.HostIP))
}

// avoids says whether a pod requires not to be on a node with another. Terms about
// other namespaces, or about more than one node, are left to the scheduler.
func avoids(pod, other *corev1.Pod) bool {
	if pod.Namespace != other.Namespace || pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
		return false
	}
	for _, t := range pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
		if t.TopologyKey != corev1.LabelHostname || len(t.Namespaces) > 0 || t.NamespaceSelector != nil {
			continue
		}
		if s, err := metav1.LabelSelectorAsSelector(t.LabelSelector); err == nil && s.Matches(labels.Set(other.Labels)) {
			return true
		}
	}
	return false
}

// ofReach is about volumes that not every node can have.
func ofReach(pod *corev1.Pod, node *corev1.Node, storage Storage) []obstacle.Finding {
	var found []obstacle.Finding
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			continue
		}
		_, pv, missing := storage.volumeOf(v.PersistentVolumeClaim.ClaimName)
		if missing != nil || pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
			continue // OfPod says what is missing
		}
		s, err := nodeaffinity.NewNodeSelector(pv.Spec.NodeAffinity.Required)
		if err != nil || !s.Match(node) {
			found = append(found, obstacle.Refuse("volume %s (claim %s) cannot be reached from node %s, by its node affinity", pv.Name, v.PersistentVolumeClaim.ClaimName, node.Name))
		}
	}
	return found
}
