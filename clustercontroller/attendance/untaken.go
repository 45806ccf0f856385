package attendance

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/nodefacts"
)

// attendUntaken says of a migration that nobody takes up why that is, and ends it
// when nobody will. It returns when to look again.
func (a *attendant) attendUntaken(ctx context.Context, m *v1alpha1.PodMigration) (time.Duration, error) {
	if left := m.CreationTimestamp.Add(grace).Sub(a.now()); left > 0 {
		return left, nil
	}
	m, err := a.read(ctx, m)
	if err != nil || !m.Untaken() || !m.DeletionTimestamp.IsZero() {
		return 0, err
	}
	pod, node, err := a.whereabouts(ctx, m)
	if err != nil {
		return 0, err
	}
	return untakenAgain, a.write(ctx, m, judgeUntaken(m, pod, node, a.now()))
}

// whereabouts are the pod and its node, nil where there is none.
func (a *attendant) whereabouts(ctx context.Context, m *v1alpha1.PodMigration) (*corev1.Pod, *corev1.Node, error) {
	pod, node := new(corev1.Pod), new(corev1.Node)
	err := a.live.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.PodName}, pod)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("pod %s: %w", m.Spec.PodName, err)
	case pod.Spec.NodeName == "":
		return pod, nil, nil
	}
	err = a.live.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node)
	switch {
	case apierrors.IsNotFound(err):
		return pod, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("node %s: %w", pod.Spec.NodeName, err)
	}
	return pod, node, nil
}

// judgeUntaken decides on a migration that nobody has taken up in time.
func judgeUntaken(m *v1alpha1.PodMigration, pod *corev1.Pod, node *corev1.Node, now time.Time) verdict {
	switch {
	case m.Spec.Cancel:
		return verdict{v1alpha1.PhaseCancelled, "Cancelled", "cancelled before a node took it up"}
	case pod == nil:
		return verdict{v1alpha1.PhaseFailed, "PodNotFound",
			fmt.Sprintf("there is no pod %s in namespace %s: make another PodMigration when there is one", m.Spec.PodName, m.Namespace)}
	case pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return verdict{v1alpha1.PhaseFailed, "PodEnded", fmt.Sprintf("pod %s has ended (%s): there is nothing to move", pod.Name, pod.Status.Phase)}
	}
	v := whyUntaken(pod, node)
	if t := m.Spec.Timeout; t != nil && !now.Before(m.CreationTimestamp.Add(t.Duration)) {
		v.phase, v.message = v1alpha1.PhaseFailed, fmt.Sprintf("no node has taken it up within %v: %s", t.Duration, v.message)
	}
	return v
}

// whyUntaken is why nobody takes a migration up, and what helps.
func whyUntaken(pod *corev1.Pod, node *corev1.Node) verdict {
	wait := func(reason, format string, args ...any) verdict {
		return verdict{v1alpha1.PhasePending, reason, fmt.Sprintf(format, args...)}
	}
	on := pod.Spec.NodeName
	if on == "" {
		return wait("PodNotScheduled", "waits: pod %s is on no node yet%s", pod.Name, orNot(": ", conditionMessage(pod)))
	}
	if node == nil {
		return wait("NodeNotFound", "waits: node %s, on which pod %s is to be, is not in the cluster", on, pod.Name)
	}
	if why, ready := readiness(node); !ready {
		return wait("NodeNotReady", "waits: node %s, on which pod %s is, is not Ready%s", on, pod.Name, orNot(": ", why))
	}
	if node.Annotations[nodefacts.Annotation] == "" {
		return wait("NoGodwitNode", "waits: no godwit-node runs on node %s, on which pod %s is: install it there "+
			"(node.nodeSelector and node.tolerations of the chart say on which nodes it runs)", on, pod.Name)
	}
	return wait("GodwitNodeSilent", "waits: godwit-node on node %s, on which pod %s is, does not take it up: it does not run, or does not reach the API server: "+
		"kubectl get pods -A -l app.kubernetes.io/component=node --field-selector spec.nodeName=%s shows it", on, pod.Name, on)
}

func orNot(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

// conditionMessage is why the scheduler has not placed a pod, in its words.
func conditionMessage(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message
		}
	}
	return ""
}

// readiness says whether a node is Ready, or why not.
func readiness(node *corev1.Node) (why string, ready bool) {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Message, c.Status == corev1.ConditionTrue
		}
	}
	return "its kubelet has not said so", false
}
