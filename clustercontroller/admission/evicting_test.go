package admission_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// wantPutOff evicts a pod in vain, and wants to be told why.
func (c *cluster) wantPutOff(t *testing.T, pod *corev1.Pod, why string) {
	t.Helper()
	err := c.evict(t.Context(), pod)
	if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), why) {
		t.Fatalf("eviction of %s: %v, want too many requests: %s", pod.Name, err, why)
	}
	if seconds, ok := apierrors.SuggestsClientDelay(err); !ok || seconds <= 0 {
		t.Errorf("it does not say when to ask again: %v", err)
	}
}

func (c *cluster) testEviction(t *testing.T) {
	one := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "budget"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "evicted"}}},
	}
	c.create(t, budget)
	pod := c.pod(t, "evicted", "n1", func(p *corev1.Pod) { p.Labels["app"] = "evicted" })
	c.warnings.take()
	if err := c.evict(t.Context(), pod, metav1.DryRunAll); err != nil && !apierrors.IsTooManyRequests(err) {
		t.Fatal(err) // the budget, which has no controller here, may refuse it
	}
	if w := strings.Join(c.warnings.take(), ""); !strings.Contains(w, "would be moved") {
		t.Errorf("the dry run warns %q", w)
	}
	c.wantDrains(t, "n1", 0)

	c.wantPutOff(t, pod, "is being moved")
	c.wantPutOff(t, pod, "drain-"+string(pod.UID)+"-1: Pending")
	m := c.wantDrains(t, "n1", 1)[0]
	if m.Spec.PodName != "evicted" || m.Spec.TargetNode != "" || m.Namespace != "shop" || m.Name != "drain-"+string(pod.UID)+"-1" || m.Spec.KeepSourceOnFailure == nil || !*m.Spec.KeepSourceOnFailure {
		t.Errorf("it asks for %+v of %s/%s", m.Spec, m.Namespace, m.Name)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(budget), budget); err != nil || len(budget.Status.DisruptedPods) != 0 {
		t.Errorf("the budget counts a disruption: %+v, %v", budget.Status, err)
	}
	c.end(t, &m, v1alpha1.PhaseSucceeded, time.Now())
	c.wantPutOff(t, pod, "about to be removed")
	c.remove(t, pod) // as the node does
	if err := c.evict(t.Context(), pod); !apierrors.IsNotFound(err) {
		t.Errorf("eviction of what has moved: %v", err)
	}
}

func (c *cluster) testLimit(t *testing.T) {
	pods := make([]*corev1.Pod, 12)
	var evicting sync.WaitGroup
	all := make(chan struct{}) // closed when all may begin
	for i := range pods {
		pods[i] = c.pod(t, fmt.Sprintf("limit-%d", i), "n2")
	}
	for _, pod := range pods {
		evicting.Go(func() {
			<-all
			for range 3 {
				if err := c.evict(t.Context(), pod); !apierrors.IsTooManyRequests(err) {
					t.Errorf("eviction of %s: %v", pod.Name, err)
				}
			}
		})
	}
	close(all)
	evicting.Wait()
	for moved := range pods {
		var m *v1alpha1.PodMigration
		all := c.wantDrains(t, "n2", min(moved+2, len(pods)))
		for i := range all {
			if !all[i].Status.Phase.Over() {
				m = &all[i]
			}
		}
		c.end(t, m, v1alpha1.PhaseSucceeded, time.Now())
		for i, pod := range pods {
			if pod != nil && pod.Name == m.Spec.PodName {
				c.remove(t, pod)
				pods[i] = nil
			}
		}
		for _, pod := range pods {
			if pod != nil {
				c.wantPutOff(t, pod, "")
			}
		}
	}
}

func (c *cluster) testFailures(t *testing.T) {
	pod := c.pod(t, "failing", "n3")
	for attempt := range 2 {
		// After a failure its pause may not be over at once.
		eventually(t, "attempt", func(ctx context.Context) error {
			c.wantPutOff(t, pod, "moved")
			if all, err := c.drains(ctx, "n3"); err != nil || len(all) != attempt+1 {
				return fmt.Errorf("%d drains, %w", len(all), errors.Join(err))
			}
			return nil
		})
		for _, m := range c.wantDrains(t, "n3", attempt+1) {
			if !m.Status.Phase.Over() {
				c.end(t, &m, v1alpha1.PhaseFailed, time.Now())
			}
		}
	}
	c.wantPutOff(t, pod, "no node has room")
	c.wantDrains(t, "n3", 2)
	pod.Annotations = map[string]string{v1alpha1.AnnotationDrainOnFailure: v1alpha1.DrainOnFailureEvict}
	if err := c.Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.evict(t.Context(), pod), c.gone(t.Context(), pod)); err != nil {
		t.Error(err)
	}
}

func (c *cluster) testUntouched(t *testing.T) {
	for _, pod := range []*corev1.Pod{
		c.pod(t, "plain", "n4", func(p *corev1.Pod) { p.Labels = nil }),
		c.pod(t, "classless", "n4", func(p *corev1.Pod) { p.Spec.RuntimeClassName = nil }),
	} {
		if err := errors.Join(c.evict(t.Context(), pod), c.gone(t.Context(), pod)); err != nil {
			t.Error(err)
		}
	}
	c.wantDrains(t, "n4", 0)
}
