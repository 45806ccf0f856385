package podcheck

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

// ErrNoNode is wrapped by ChooseNode's error.
var ErrNoNode = errors.New("no node can take the pod in")

// nodeAnnotation is what godwit-node leaves on its Node.
const nodeAnnotation = "godwit.dev/node"

// onePod is what a pod takes of the number of pods of a node.
var onePod = *resource.NewQuantity(1, resource.DecimalSI)

// ChooseNode chooses, for a pod whose PodMigration names no node, the one to go
// to: of those that can take it the one that the pod and the PodMigration prefer
// most; of equal ones that with the fewest pods of the same owner, then that with
// the most room, then the first by name. It says in a sentence why that one; the
// error, which wraps ErrNoNode, says of every node why not.
func ChooseNode(pod *corev1.Pod, spec v1alpha1.PodMigrationSpec, nodes []Node, storage Storage) (name, because string, err error) {
	var fit []scored
	var not []string
	for _, n := range nodes {
		if n.Name == pod.Spec.NodeName {
			continue
		}
		found := append(wanted(spec, n.Node), OfNode(pod, n, storage)...)
		if refusals := obstacle.Refusals(found); len(refusals) > 0 {
			not = append(not, n.Name+": "+obstacle.List(refusals))
			continue
		}
		fit = append(fit, score(pod, spec, n))
	}
	if len(fit) == 0 {
		slices.Sort(not)
		return "", "", fmt.Errorf("%w: %s", ErrNoNode, orNothing(strings.Join(not, "; ")))
	}
	best := slices.MinFunc(fit, better)
	return best.name, fmt.Sprintf("node %s of %d that can take the pod: preference %d, %d pods of the same owner, %d %% of it left free",
		best.name, len(fit), best.preference, best.siblings, best.room), nil
}

func orNothing(s string) string {
	if s == "" {
		return "there is no other node"
	}
	return s
}

// wanted is what only a chosen node has to fulfil, beside what OfNode asks of
// every one.
func wanted(spec v1alpha1.PodMigrationSpec, node *corev1.Node) []obstacle.Finding {
	var found []obstacle.Finding
	if node.Annotations[nodeAnnotation] == "" {
		found = append(found, obstacle.Refuse("no godwit-node runs on node %s", node.Name))
	}
	match, err := nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, &corev1.Affinity{NodeAffinity: spec.Affinity}).Match(node)
	switch {
	case err != nil:
		found = append(found, obstacle.Refuse("the affinity of the PodMigration cannot be read: %v", err))
	case !match:
		found = append(found, obstacle.Refuse("node %s does not match the node selector or affinity of the PodMigration", node.Name))
	}
	return found
}

// scored is a node that can take the pod.
type scored struct {
	name       string
	preference int64 // weights of the preferences that it matches
	siblings   int   // pods there of the pod's owner
	room       int64 // percent of cpu or memory, what is scarcer, that the pod leaves free
}

// better orders nodes, the best first.
func better(a, b scored) int {
	return cmp.Or(cmp.Compare(b.preference, a.preference), cmp.Compare(a.siblings, b.siblings), cmp.Compare(b.room, a.room), cmp.Compare(a.name, b.name))
}

func score(pod *corev1.Pod, spec v1alpha1.PodMigrationSpec, node Node) scored {
	s := scored{name: node.Name, room: 100}
	affinities := []*corev1.NodeAffinity{spec.Affinity}
	if pod.Spec.Affinity != nil {
		affinities = append(affinities, pod.Spec.Affinity.NodeAffinity)
	}
	for _, a := range affinities {
		if a == nil {
			continue
		}
		if terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.PreferredDuringSchedulingIgnoredDuringExecution); err == nil {
			s.preference += terms.Score(node.Node)
		}
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		for _, p := range node.Pods {
			if o := metav1.GetControllerOf(p); o != nil && o.UID == owner.UID && !ended(p) {
				s.siblings++
			}
		}
	}
	left, asked := free(node), requests(pod)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		all, have, want := node.Status.Allocatable[name], left[name], asked[name]
		if total := all.MilliValue(); total > 0 {
			s.room = min(s.room, (have.MilliValue()-want.MilliValue())*100/total)
		}
	}
	return s
}
