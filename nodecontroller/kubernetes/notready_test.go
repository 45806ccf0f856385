package kubernetes

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/nodefacts"
)

// nodeOf is a node with room, Ready or not since some time.
func nodeOf(name string, ready corev1.ConditionStatus, ago time.Duration, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{nodefacts.Annotation: "{}"}}}
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")}
	n.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: ready, Message: "kubelet stopped posting", LastTransitionTime: metav1.NewTime(time.Now().Add(-ago)),
	}}
	for _, key := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	return n
}

// movable is a pod on node a that nothing is known against.
func movable() *corev1.Pod {
	class := v1alpha1.RuntimeClass
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "p"}}
	p.Spec.NodeName, p.Spec.RuntimeClassName, p.Spec.Containers = "a", &class, []corev1.Container{{Name: "c"}}
	p.Status.Phase = corev1.PodRunning
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	return p
}

func TestADestinationThatIsNotReadyForAMomentIsWaitedFor(t *testing.T) {
	immovable := movable()
	immovable.Spec.RuntimeClassName = nil
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		b      *corev1.Node
		target string
		wait   bool
		err    string // "" if it goes there
	}{
		{"Ready", movable(), nodeOf("b", corev1.ConditionTrue, time.Hour), "b", false, ""},
		{"Ready, chosen", movable(), nodeOf("b", corev1.ConditionTrue, time.Hour), "", false, ""},
		{"unknown since a moment ago", movable(), nodeOf("b", corev1.ConditionUnknown, time.Second, corev1.TaintNodeUnreachable), "b", true, "stopped posting"},
		{"unknown since a moment ago, chosen", movable(), nodeOf("b", corev1.ConditionUnknown, time.Second, corev1.TaintNodeUnreachable), "", true, "stopped posting"},
		{"Ready since a moment ago, with its taint", movable(), nodeOf("b", corev1.ConditionTrue, time.Second, corev1.TaintNodeUnreachable), "b", true, corev1.TaintNodeUnreachable},
		{"Ready since a moment ago, with another taint", movable(), nodeOf("b", corev1.ConditionTrue, time.Second, "mine"), "b", false, "mine"},
		{"unknown since long", movable(), nodeOf("b", corev1.ConditionUnknown, recently, corev1.TaintNodeUnreachable), "b", false, "stopped posting"},
		{"unknown since long, chosen", movable(), nodeOf("b", corev1.ConditionUnknown, recently, corev1.TaintNodeUnreachable), "", false, "stopped posting"},
		{"unknown, but the pod cannot be moved anyway", immovable, nodeOf("b", corev1.ConditionUnknown, time.Second), "b", false, "only pods that were made with godwit"},
	} {
		_, api, _ := testController(t, c.pod, c.b, nodeOf("a", corev1.ConditionTrue, time.Hour))
		p := &preflight{reader: api, node: "a"}
		plan, err := p.Check(t.Context(), claimed(func(m *v1alpha1.PodMigration) { m.Spec.TargetNode = c.target }), c.pod)
		var notYet *notYetError
		switch {
		case c.err == "" && (err != nil || plan.Node != "b"):
			t.Errorf("%s: %+v, %v", c.name, plan, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || errors.As(err, &notYet) != c.wait):
			t.Errorf("%s: %v, want %q, waited for: %v", c.name, err, c.err, c.wait)
		}
	}
}

// never is a preflight that finds the destination not Ready.
type never struct{}

func (never) Check(context.Context, *v1alpha1.PodMigration, *corev1.Pod) (Plan, error) {
	return Plan{}, notReady("b", "kubelet stopped posting")
}

func TestAMigrationWaitsForItsDestinationForALimitedTime(t *testing.T) {
	for _, c := range []struct {
		name    string
		since   time.Duration
		timeout time.Duration
		want    v1alpha1.Phase
	}{
		{"just begun", 0, time.Hour, v1alpha1.PhasePending},
		{"its patience is over", patience, time.Hour, v1alpha1.PhaseFailed},
		{"its time is over", patience / 2, patience / 2, v1alpha1.PhaseFailed},
	} {
		m := claimed(func(m *v1alpha1.PodMigration) {
			m.Status.Phase, m.Status.Claim = v1alpha1.PhasePending, ""
			m.Status.StartTime = &metav1.Time{Time: time.Now().Add(-c.since)}
			m.Spec.Timeout = &metav1.Duration{Duration: c.timeout}
		})
		controller, api, _ := testController(t, movable(), m)
		controller.check = never{}
		r := controller.look(t)
		now := new(v1alpha1.PodMigration)
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(m), now); err != nil {
			t.Fatal(err)
		}
		waits := c.want == v1alpha1.PhasePending
		if now.Status.Phase != c.want || !strings.Contains(now.Status.Message, "node b is not Ready: kubelet stopped posting") || waits != (r.RequeueAfter == lookAgain) {
			t.Errorf("%s: %s: %q, again in %v", c.name, now.Status.Phase, now.Status.Message, r.RequeueAfter)
		}
		if waits != strings.HasPrefix(now.Status.Message, "waits: ") {
			t.Errorf("%s: %q", c.name, now.Status.Message)
		}
	}
}
