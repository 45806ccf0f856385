package podcheck

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

// roomy is a node of the cluster with godwit-node, two processors and 4 GiB, changed.
func roomy(name string, change ...func(*Node)) Node {
	n := Node{Node: &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}, Annotations: map[string]string{nodeAnnotation: "{}"}},
		Status: corev1.NodeStatus{
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")},
		},
	}}
	for _, c := range change {
		c(&n)
	}
	return n
}

func tainted(key string, effect corev1.TaintEffect) func(*Node) {
	return func(n *Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func labelled(key, value string) func(*Node) {
	return func(n *Node) { n.Labels[key] = value }
}

func with(pods ...*corev1.Pod) func(*Node) {
	return func(n *Node) { n.Pods = append(n.Pods, pods...) }
}

func asking(cpu, memory string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
}

func port(number int32, ip string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: number, HostIP: ip}}
	}
}

func named(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Name, p.UID = name, "uid-of-"+p.UID }
}

func selecting(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

// boundTo has the pod as package destination left it on its first move.
func boundTo(node string, more ...corev1.NodeSelectorRequirement) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations[v1alpha1.AnnotationMovedBy] = "earlier"
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: more,
				MatchFields:      []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}},
		}}}
	}
}

func avoiding(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{key: value}
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{key: value}},
		}}}}
	}
}

func TestNodeTakesAPodOrSaysWhyNot(t *testing.T) {
	zone := corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"north"}}
	inZone := bound(csi, corev1.ReadWriteOnce)
	inZone.Volumes["v"].Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{zone}}}}}
	gone := movable(asking("2", "4Gi"))
	gone.Status.Phase = corev1.PodSucceeded
	for _, c := range []struct {
		name    string
		pod     *corev1.Pod
		node    Node
		storage Storage
		refused string
	}{
		{name: "roomy", pod: movable(), node: roomy("b")},
		{name: "its own", pod: movable(), node: roomy("a"), refused: "on node a already"},
		{name: "unfit", pod: movable(), node: roomy("b", func(n *Node) { n.Unfit = "the CPU of node b lacks avx2" }), refused: "lacks avx2"},
		{name: "not ready", pod: movable(), node: roomy("b", func(n *Node) {
			n.Status.Conditions[0].Status, n.Status.Conditions[0].Message = corev1.ConditionFalse, "no network"
		}), refused: "node b is not Ready: no network"},
		{name: "unknown", pod: movable(), node: roomy("b", func(n *Node) { n.Status.Conditions = nil }), refused: "its kubelet has not said so"},
		{name: "cordoned", pod: movable(), node: roomy("b", func(n *Node) { n.Spec.Unschedulable = true }, tainted(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)), refused: "node b is cordoned"},
		{name: "cordoned just now", pod: movable(), node: roomy("b", func(n *Node) { n.Spec.Unschedulable = true }), refused: "node b is cordoned"},
		{name: "tainted", pod: movable(), node: roomy("b", tainted("dedicated", corev1.TaintEffectNoExecute)), refused: "the taint dedicated:NoExecute"},
		{name: "tainted a little", pod: movable(), node: roomy("b", tainted("dedicated", corev1.TaintEffectPreferNoSchedule))},
		{name: "tolerated", pod: movable(func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
		}), node: roomy("b", tainted("dedicated", corev1.TaintEffectNoSchedule))},
		{name: "not selected", pod: movable(selecting("disk", "ssd")), node: roomy("b"), refused: "does not match the pod's node selector"},
		{name: "selected", pod: movable(selecting("disk", "ssd")), node: roomy("b", labelled("disk", "ssd"))},
		{name: "bound by an earlier move", pod: movable(boundTo("a")), node: roomy("b")},
		{name: "bound by an earlier move, and by its author", pod: movable(boundTo("a", zone)), node: roomy("b"), refused: "does not match"},
		{name: "the same where its author wants it", pod: movable(boundTo("a", zone)), node: roomy("b", labelled("zone", "north"))},
		{name: "full", pod: movable(asking("500m", "1Gi")), node: roomy("b", with(movable(named("y"), asking("1800m", "3500Mi")))), refused: "free are 200m of 500m cpu, 596Mi of 1Gi memory"},
		{name: "nearly full", pod: movable(asking("200m", "596Mi")), node: roomy("b", with(movable(named("y"), asking("1800m", "3500Mi"))))},
		{name: "full of what has ended", pod: movable(asking("2", "4Gi")), node: roomy("b", with(gone))},
		{name: "as many pods as it may have", pod: movable(), node: roomy("b", func(n *Node) { n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("1") }, with(movable(named("y")))), refused: "0 of 1 pods"},
		{name: "a port that is taken", pod: movable(port(80, "")), node: roomy("b", with(movable(named("y"), port(80, "10.0.0.1")))), refused: "port 80 of node b is pod default/y's"},
		{name: "a port on another address", pod: movable(port(80, "10.0.0.2")), node: roomy("b", with(movable(named("y"), port(80, "10.0.0.1"))))},
		{name: "a neighbour to avoid", pod: movable(avoiding("app", "db")), node: roomy("b", with(movable(named("y"), avoiding("app", "db")))), refused: "may not share a node"},
		{name: "a volume out of reach", pod: movable(claim(false)), node: roomy("b"), storage: inZone, refused: "volume v (claim c) cannot be reached from node b"},
		{name: "a volume within reach", pod: movable(claim(false)), node: roomy("b", labelled("zone", "north")), storage: inZone},
	} {
		expect(t, c.name, OfNode(c.pod, c.node, c.storage), c.refused, "")
	}
}

func TestNodeIsChosenAsTheSchedulerWould(t *testing.T) {
	sibling := movable(named("y"), ownedBy("ReplicaSet"))
	prefers := v1alpha1.PodMigrationSpec{Affinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
		Weight: 10, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpExists}}},
	}}}}
	for _, c := range []struct {
		name  string
		spec  v1alpha1.PodMigrationSpec
		nodes []Node
		want  string
		not   string // in the error
	}{
		{name: "the only other", nodes: []Node{roomy("a"), roomy("b")}, want: "b"},
		{name: "of equal ones the first by name", nodes: []Node{roomy("d"), roomy("c"), roomy("b")}, want: "b"},
		{name: "that with more room", nodes: []Node{roomy("b", with(movable(named("y"), asking("1", "1Gi")))), roomy("c")}, want: "c"},
		{name: "room is what is scarcer", nodes: []Node{roomy("b", with(movable(named("y"), asking("1900m", "1Mi")))), roomy("c", with(movable(named("y"), asking("1", "2Gi"))))}, want: "c"},
		{name: "that without a sibling, though fuller", nodes: []Node{roomy("b", with(sibling)), roomy("c", with(movable(named("z"), asking("1", "1Gi"))))}, want: "c"},
		{name: "that which is preferred, though fuller", spec: prefers, nodes: []Node{roomy("b"), roomy("c", labelled("disk", "ssd"), with(sibling))}, want: "c"},
		{name: "that which is selected", spec: v1alpha1.PodMigrationSpec{NodeSelector: map[string]string{"disk": "ssd"}}, nodes: []Node{roomy("b"), roomy("c", labelled("disk", "ssd"))}, want: "c"},
		{name: "not one without godwit-node", nodes: []Node{roomy("b", func(n *Node) { n.Annotations = nil }), roomy("c")}, want: "c"},
		{name: "none", nodes: []Node{roomy("a")}, not: "there is no other node"},
		{name: "none that can take it", nodes: []Node{roomy("c", func(n *Node) { n.Annotations = nil }), roomy("b", tainted("t", corev1.TaintEffectNoSchedule))}, not: "b: node b has the taint t:NoSchedule, which the pod does not tolerate; c: no godwit-node runs on node c"},
	} {
		name, because, err := ChooseNode(movable(ownedBy("ReplicaSet")), c.spec, c.nodes, Storage{})
		switch {
		case name != c.want:
			t.Errorf("%s: %q (%s), %v; want %q", c.name, name, because, err, c.want)
		case c.want == "" && (!errors.Is(err, ErrNoNode) || !strings.Contains(err.Error(), c.not)):
			t.Errorf("%s: %v, want %q", c.name, err, c.not)
		case c.want != "" && !strings.HasPrefix(because, "node "+c.want+" of "):
			t.Errorf("%s: %q", c.name, because)
		}
	}
}

// What a message says of a node that is asked for is what a choice passes it over for.
func TestChoiceAndRefusalAgree(t *testing.T) {
	b := roomy("b", tainted("t", corev1.TaintEffectNoSchedule))
	err := obstacle.Error("default/x", "b", OfNode(movable(), b, Storage{}))
	_, _, none := ChooseNode(movable(), v1alpha1.PodMigrationSpec{}, []Node{b}, Storage{})
	if err == nil || none == nil || !strings.Contains(none.Error(), obstacle.List(OfNode(movable(), b, Storage{}))) {
		t.Errorf("%v; %v", err, none)
	}
}
