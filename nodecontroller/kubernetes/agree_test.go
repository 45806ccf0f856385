package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// overtaken is an API server's stand-in on which somebody else writes right before the first status that is written.
func overtaken(t *testing.T, api client.WithWatch, by func(client.Client, *v1alpha1.PodMigration) error) client.WithWatch {
	var once sync.Once
	return interceptor.NewClient(api, interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, name string, o client.Object, opts ...client.SubResourceUpdateOption) error {
			once.Do(func() {
				m := new(v1alpha1.PodMigration)
				if err := errors.Join(c.Get(ctx, client.ObjectKeyFromObject(o), m), by(c, m)); err != nil {
					t.Error(err)
				}
			})
			return c.SubResource(name).Update(ctx, o, opts...)
		},
	})
}

// What is agreed to is what the object says at that moment: who was first has the last word.
func TestAnAgreementLosesAgainstWhoWroteBefore(t *testing.T) {
	for _, c := range []struct {
		name string
		by   func(client.Client, *v1alpha1.PodMigration) error
		says string // "" if it is agreed to all the same
	}{
		{"somebody cancelled it", func(c client.Client, m *v1alpha1.PodMigration) error {
			m.Spec.Cancel = true
			return c.Update(t.Context(), m)
		}, "cancelled"},
		{"the destination's node ended it", func(c client.Client, m *v1alpha1.PodMigration) error {
			m.Status.Phase, m.Status.Message = v1alpha1.PhaseFailed, "the pod was deleted"
			return c.Status().Update(t.Context(), m)
		}, "the pod was deleted"},
		{"the destination's pod got an address", func(c client.Client, m *v1alpha1.PodMigration) error {
			m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-2", IP: "10.0.0.9"}
			return c.Status().Update(t.Context(), m)
		}, ""},
	} {
		m := claimed()
		controller, api, _ := testController(t, m)
		controller.client, controller.reader = overtaken(t, api, c.by), api
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
			t.Fatal(err)
		}
		s := newSession(controller, m, new(corev1.Pod), Plan{Node: "b"})
		s.log = slog.New(slog.DiscardHandler)
		if err := s.Agree(t.Context(), ""); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := s.live(t); (got.AgreedSince() != nil) != (c.says == "") || c.says == "" && got.Status.DestinationPod == nil {
			t.Errorf("%s: %+v", c.name, got.Status)
		}
	}
}

// A daemon that dies after the cluster has agreed leaves an object that says no more than that. What its successor has done with the
// migration tells what it was.
func TestWhatWasAgreedToEndsAsTheNextDaemonFindsIt(t *testing.T) {
	source := func(node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "p"}, Spec: corev1.PodSpec{NodeName: node}}
	}
	arrival := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-2", UID: "q"}, Spec: corev1.PodSpec{NodeName: "b"}}
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	cancel := func(m *v1alpha1.PodMigration) { m.Spec.Cancel = true }
	for _, c := range []struct {
		name   string
		there  []client.Object
		change func(*v1alpha1.PodMigration)
		want   v1alpha1.Phase
		agreed bool
	}{
		{"rolled back", []client.Object{source("a"), arrival, node("b")}, func(*v1alpha1.PodMigration) {}, v1alpha1.PhaseFailed, false},
		{"rolled back, and cancelled", []client.Object{source("a"), arrival, node("b")}, cancel, v1alpha1.PhaseCancelled, false},
		{"carried through", []client.Object{arrival, node("b")}, func(*v1alpha1.PodMigration) {}, v1alpha1.PhaseSucceeded, true},
		{"carried through, and cancelled too late", []client.Object{arrival, node("b")}, cancel, v1alpha1.PhaseSucceeded, true},
		{"carried through, and the pod is lost", []client.Object{node("b")}, func(*v1alpha1.PodMigration) {}, v1alpha1.PhaseFailed, true},
		{"carried through, and the node is lost", []client.Object{arrival}, func(*v1alpha1.PodMigration) {}, v1alpha1.PhaseFailed, true},
	} {
		m := claimed(agreed, c.change, func(m *v1alpha1.PodMigration) {
			m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-2", UID: "q"}
		})
		controller, api, _ := testController(t, append([]client.Object{m}, c.there...)...)
		if _, err := controller.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(m)}); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
			t.Fatal(err)
		}
		if m.Status.Phase != c.want || meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionAgreed) != c.agreed {
			t.Errorf("%s: %s, conditions %+v", c.name, m.Status.Phase, m.Status.Conditions)
		}
		if committed := m.Status.CommitTime != nil; committed != (c.want == v1alpha1.PhaseSucceeded) {
			t.Errorf("%s: committed at %v", c.name, m.Status.CommitTime)
		}
	}
}
