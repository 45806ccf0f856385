package admission

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// action is what becomes of an eviction.
type action int

const (
	// pass leaves it to the API server.
	pass action = iota
	// wait puts it off.
	wait
	// move puts it off and asks for a migration.
	move
	// gone says that there is no such pod any more.
	gone
)

// verdict is the decision on an eviction.
type verdict struct {
	action action
	// why is for who evicts; empty if the pod is none of Godwit's.
	why string
	// attempt is the number of the migration to ask for, from 1.
	attempt int
}

// wantsMove says whether an eviction of the pod is to move it instead: it asks
// for that, and there is something to move.
func wantsMove(pod *corev1.Pod) bool {
	if !ofClass(pod) || pod.Labels[v1alpha1.LabelMigrateOnDrain] != "true" {
		return false
	}
	// The migration's mark goes when the pod runs, before kubelet has said that it does. A marked one may wait for a volume
	// before it has a node.
	arriving := pod.Annotations[v1alpha1.AnnotationMigration] != "" || pod.Annotations[v1alpha1.AnnotationMovedBy] != "" && pod.Status.Phase == corev1.PodPending
	return pod.DeletionTimestamp == nil && (pod.Spec.NodeName != "" && pod.Status.Phase == corev1.PodRunning || arriving)
}

// judge decides on the eviction of a pod that wantsMove. of are its
// namespace's migrations, drains those of all namespaces that an eviction asked for.
func judge(pod *corev1.Pod, of, drains []v1alpha1.PodMigration, now time.Time, o Options) verdict {
	if m := under(pod, of); m != nil {
		return verdict{action: wait, why: fmt.Sprintf("the pod is being moved by PodMigration %s: %s", m.Name, progress(m))}
	}
	if pod.Status.Phase != corev1.PodRunning {
		if m := broughtBy(pod, of); m != nil {
			return verdict{action: wait, why: fmt.Sprintf("the pod has come by PodMigration %s and runs, and its kubelet has not said so yet", m.Name)}
		}
		return verdict{action: pass}
	}
	if m := givenUp(pod, of); m != nil {
		return verdict{action: pass, why: fmt.Sprintf("the pod is evicted: PodMigration %s failed, which does not keep the source: %s", m.Name, m.Status.Message)}
	}
	tries := attempts(pod.UID, of)
	if len(tries) > 0 {
		if v, end := afterFailure(pod, tries, now, o); end {
			return v
		}
	}
	if n := active(pod.Spec.NodeName, drains); n >= o.PerNode {
		return verdict{action: wait, why: fmt.Sprintf("the pod is to be moved after others: %d of node %s's are being moved, and no more than %d are at a time", n, pod.Spec.NodeName, o.PerNode)}
	}
	return verdict{action: move, why: "the pod is being moved", attempt: nextAttempt(tries)}
}

// under is the migration that has the pod in hand, from or to its node.
func under(pod *corev1.Pod, of []v1alpha1.PodMigration) *v1alpha1.PodMigration {
	for i := range of {
		m := &of[i]
		if m.Status.Phase.Over() {
			continue
		}
		if concerns(pod, m) || pod.Annotations[v1alpha1.AnnotationMovedBy] == m.Name {
			return m
		}
	}
	return nil
}

// broughtBy is the migration by which a pod came, nil if there is none that succeeded.
func broughtBy(pod *corev1.Pod, of []v1alpha1.PodMigration) *v1alpha1.PodMigration {
	for i := range of {
		m := &of[i]
		if d := m.Status.DestinationPod; m.Status.Phase == v1alpha1.PhaseSucceeded && d != nil && d.UID == pod.UID {
			return m
		}
	}
	return nil
}

// concerns says whether m moves this pod away, or moved it.
func concerns(pod *corev1.Pod, m *v1alpha1.PodMigration) bool {
	if m.Spec.PodName != pod.Name {
		return false
	}
	if s := m.Status.SourcePod; s != nil && s.UID != "" {
		return s.UID == pod.UID
	}
	drained := m.Labels[v1alpha1.LabelDrain]
	return drained == "" && !m.Status.Phase.Over() || drained == string(pod.UID)
}

// givenUp is a migration of the pod that failed and was to leave no source: its
// user has preferred another copy to none that moves.
func givenUp(pod *corev1.Pod, of []v1alpha1.PodMigration) *v1alpha1.PodMigration {
	for i := range of {
		m := &of[i]
		if m.Status.Phase == v1alpha1.PhaseFailed && concerns(pod, m) && m.Spec.KeepSourceOnFailure != nil && !*m.Spec.KeepSourceOnFailure {
			return m
		}
	}
	return nil
}

// attempts are the migrations that evictions of the pod have asked for, the last
// that ended at the end.
func attempts(uid types.UID, of []v1alpha1.PodMigration) []v1alpha1.PodMigration {
	var all []v1alpha1.PodMigration
	for _, m := range of {
		if m.Labels[v1alpha1.LabelDrain] == string(uid) {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b v1alpha1.PodMigration) int { return ended(&a).Compare(ended(&b)) })
	return all
}

// afterFailure decides on a pod that was to be moved and was not; end is false
// if it may be tried again now.
func afterFailure(pod *corev1.Pod, tries []v1alpha1.PodMigration, now time.Time, o Options) (v verdict, end bool) {
	last := &tries[len(tries)-1]
	if last.Status.Phase == v1alpha1.PhaseSucceeded {
		return verdict{action: wait, why: fmt.Sprintf("the pod has moved by PodMigration %s and is about to be removed here", last.Name)}, true
	}
	reason := fmt.Sprintf("PodMigration %s: %s", last.Name, progress(last))
	if len(tries) >= o.Attempts {
		if pod.Annotations[v1alpha1.AnnotationDrainOnFailure] == v1alpha1.DrainOnFailureEvict {
			return verdict{action: pass, why: fmt.Sprintf("the pod is evicted: it could not be moved in %d attempts: %s", len(tries), reason)}, true
		}
		return verdict{action: wait, why: fmt.Sprintf("the pod could not be moved in %d attempts, and the next is after %s: %s: "+
			"mend that and delete the pod's PodMigrations (kubectl delete pmig -l %s=%s) for another attempt now, move the pod by hand, or evict it after all: kubectl annotate pod %s %s=%s",
			len(tries), ended(last).Add(o.Keep).UTC().Format(time.TimeOnly), reason, v1alpha1.LabelDrain, pod.UID,
			pod.Name, v1alpha1.AnnotationDrainOnFailure, v1alpha1.DrainOnFailureEvict)}, true
	}
	if left := ended(last).Add(pause(len(tries), o.Pause)).Sub(now); left > 0 {
		return verdict{action: wait, why: fmt.Sprintf("the pod could not be moved, and attempt %d of %d is in %s: %s",
			len(tries)+1, o.Attempts, left.Round(time.Second), reason)}, true
	}
	return verdict{}, false
}

// pause is between the end of attempt n, from 1, and the next one. Beyond ten
// times twice as long it does not grow.
func pause(n int, first time.Duration) time.Duration {
	return first << min(n-1, 10)
}

// active is how many drains of the node's pods are not over.
func active(node string, drains []v1alpha1.PodMigration) int {
	n := 0
	for i := range drains {
		if m := &drains[i]; !m.Status.Phase.Over() && sourceNode(m) == node {
			n++
		}
	}
	return n
}

// sourceNode is where the pod of a drain is: until a node has taken the migration
// up that is known from who asked for it.
func sourceNode(m *v1alpha1.PodMigration) string {
	if m.Status.SourceNode != "" {
		return m.Status.SourceNode
	}
	return m.Annotations[v1alpha1.AnnotationDrainNode]
}

// nextAttempt is a number that none of the tries has.
func nextAttempt(tries []v1alpha1.PodMigration) int {
	next := 1
	for _, m := range tries {
		number := strings.TrimPrefix(m.Name, drainName(m.Labels[v1alpha1.LabelDrain], ""))
		if n, err := strconv.Atoi(number); err == nil && n >= next {
			next = n + 1
		}
	}
	return next
}

// drainName is that of a drain's PodMigration. A pod that has moved has another
// UID: the name is free for its next drain.
func drainName(uid, attempt string) string { return "drain-" + uid + "-" + attempt }

// newDrain asks for the pod's move to wherever it can go.
func newDrain(pod *corev1.Pod, attempt int) *v1alpha1.PodMigration {
	return &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   pod.Namespace,
			Name:        drainName(string(pod.UID), strconv.Itoa(attempt)),
			Labels:      map[string]string{v1alpha1.LabelDrain: string(pod.UID)},
			Annotations: map[string]string{v1alpha1.AnnotationDrainNode: pod.Spec.NodeName},
		},
		Spec: v1alpha1.PodMigrationSpec{PodName: pod.Name},
	}
}

// progress says in a few words where m stands.
func progress(m *v1alpha1.PodMigration) string {
	phase := m.Status.Phase
	if phase == "" {
		phase = v1alpha1.PhasePending
	}
	if m.Status.Message == "" {
		return string(phase)
	}
	return string(phase) + ": " + m.Status.Message
}

// ended is when m was over.
func ended(m *v1alpha1.PodMigration) time.Time {
	if m.Status.CompletionTime != nil {
		return m.Status.CompletionTime.Time
	}
	return m.CreationTimestamp.Time
}
