package attendance

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

const (
	// lostAfter is how long a Node has been out of the cluster when it is taken to be
	// gone for good: it may be made again at once, and what its daemon has still to
	// say is better.
	lostAfter = time.Minute
	// lateArrival is how long after the commit a destination's pod may still be made:
	// some can be only when the source's is gone from the cluster.
	lateArrival = 10 * time.Minute
)

// nodes knows which nodes have left the cluster, and since when.
type nodes struct {
	live client.Reader
	now  func() time.Time

	mu   sync.Mutex
	gone map[string]time.Time // when each was first missed; guarded by mu
}

func newNodes(live client.Reader, now func() time.Time) *nodes {
	return &nodes{live: live, now: now, gone: make(map[string]time.Time)}
}

// lost says whether a node has left for good, or in how long that can be said if it
// is missing: zero if it is there.
func (n *nodes) lost(ctx context.Context, name string) (bool, time.Duration, error) {
	if name == "" {
		return false, 0, nil
	}
	node := new(metav1.PartialObjectMetadata)
	node.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Node"))
	err := n.live.Get(ctx, client.ObjectKey{Name: name}, node)
	if client.IgnoreNotFound(err) != nil {
		return false, 0, fmt.Errorf("node %s: %w", name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		delete(n.gone, name)
		return false, 0, nil
	}
	since, missed := n.gone[name]
	if !missed {
		since = n.now()
		n.gone[name] = since
	}
	left := since.Add(lostAfter).Sub(n.now())
	return left <= 0, max(left, 0), nil
}

// attendTaken ends and lets go of a migration whose source node is gone. It returns
// when to look again.
func (a *attendant) attendTaken(ctx context.Context, m *v1alpha1.PodMigration) (time.Duration, error) {
	lost, left, err := a.nodes.lost(ctx, m.Status.SourceNode)
	if err != nil || !lost {
		return max(left, takenAgain), err
	}
	if m, err = a.read(ctx, m); err != nil {
		return 0, err
	}
	l := loss{now: a.now()}
	if l.destination, _, err = a.nodes.lost(ctx, m.Status.DestinationNode); err != nil {
		return 0, err
	}
	if l.arrival, err = a.arrival(ctx, m); err != nil {
		return 0, err
	}
	v, let := judgeLost(m, l)
	if let {
		return 0, a.release(ctx, m)
	}
	return takenAgain, a.write(ctx, m, v)
}

// arrival is the destination's pod, nil if there is none: the one that bears the
// migration's id, or has borne it.
func (a *attendant) arrival(ctx context.Context, m *v1alpha1.PodMigration) (*corev1.Pod, error) {
	all := new(corev1.PodList)
	if err := a.live.List(ctx, all, client.InNamespace(m.Namespace)); err != nil {
		return nil, fmt.Errorf("pods of namespace %s: %w", m.Namespace, err)
	}
	i := slices.IndexFunc(all.Items, func(p corev1.Pod) bool { return marked(&p, m) })
	if known := m.Status.DestinationPod; i < 0 && known != nil && known.UID != "" {
		i = slices.IndexFunc(all.Items, func(p corev1.Pod) bool { return p.UID == known.UID })
	}
	if i < 0 {
		return nil, nil
	}
	return &all.Items[i], nil
}

func marked(pod *corev1.Pod, m *v1alpha1.PodMigration) bool {
	return m.Status.Migration != "" && pod.Annotations[v1alpha1.AnnotationMigration] == m.Status.Migration
}

// loss is what is known of a migration whose source node is gone.
type loss struct {
	now time.Time
	// destination: that node is gone as well.
	destination bool
	// arrival is the destination's pod, nil if there is none.
	arrival *corev1.Pod
}

// judgeLost decides on a migration whose source node is gone: what is to be said of
// it, or that it is to be let go.
func judgeLost(m *v1alpha1.PodMigration, l loss) (v verdict, let bool) {
	s := &m.Status
	switch {
	case s.Phase.Over():
		// The destination's node takes its mark from a pod that has come, and removes
		// one that never will: it needs the object for it.
		left := l.arrival != nil && marked(l.arrival, m) && !l.destination
		return verdict{s.Phase, "", s.Message}, !left
	case !m.Agreed():
		return verdict{v1alpha1.PhaseFailed, "SourceLost", fmt.Sprintf("node %s is gone from the cluster, and pod %s with it: nothing was committed before", s.SourceNode, m.Spec.PodName)}, false
	}
	return judgeHandedOver(m, l), false
}

// judgeHandedOver decides on a migration to which the cluster had agreed. The
// destination may have heard that it is decided, or not: then it holds the pod, and
// only somebody who knows that the source is dead can tell it.
func judgeHandedOver(m *v1alpha1.PodMigration, l loss) verdict {
	s, a := &m.Status, l.arrival
	from, to := s.SourceNode, s.DestinationNode
	switch {
	case l.destination:
		return verdict{v1alpha1.PhaseFailed, "BothLost", fmt.Sprintf("nodes %s and %s are gone from the cluster, and with them pod %s, which %s owned", from, to, m.Spec.PodName, to)}
	case a != nil && ended(a) && marked(a, m):
		return verdict{v1alpha1.PhaseFailed, "DestinationLost", fmt.Sprintf("node %s is gone from the cluster, and pod %s on node %s, which owned it, has ended before it ran", from, a.Name, to)}
	case a == nil && stillToCome(m, l.now):
		return verdict{s.Phase, "SourceLost", fmt.Sprintf("node %s is gone from the cluster; node %s owns the pod, which is still to be made there", from, to)}
	case a == nil:
		return verdict{v1alpha1.PhaseFailed, "DestinationLost", fmt.Sprintf("node %s is gone from the cluster, and the pod is not on node %s, which owned it", from, to)}
	case runs(a) || !marked(a, m):
		return verdict{v1alpha1.PhaseSucceeded, "SourceLost", fmt.Sprintf("pod %s runs on node %s; node %s, where it was, is gone from the cluster", a.Name, to, from)}
	}
	return verdict{s.Phase, "InDoubt", fmt.Sprintf("node %s is gone from the cluster, and node %s may hold the pod without knowing that it owns it: godwitctl status there says so, "+
		"and godwitctl resolve takes your word that node %s does not run any more", from, to, from)}
}

// stillToCome says whether a destination's pod that is not there may yet be made.
func stillToCome(m *v1alpha1.PodMigration, now time.Time) bool {
	since := m.Status.CommitTime
	if since == nil {
		since = m.AgreedSince()
	}
	return since != nil && now.Before(since.Add(lateArrival))
}

// runs says whether all of a pod does: the last container of a destination's pod is
// started only when the migration is committed. Ready it need not be.
func runs(pod *corev1.Pod) bool {
	running := 0
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil {
			running++
		}
	}
	return running > 0 && running == len(pod.Spec.Containers)
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
