package kubernetes

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// A daemon that finds a migration of an earlier one, whose destination has lost the pod, has nobody else to say so.
func TestALostPodIsWrittenDownOnce(t *testing.T) {
	for from, want := range map[v1alpha1.Phase]v1alpha1.Phase{
		v1alpha1.PhaseMigrationComplete: v1alpha1.PhaseFailed,
		v1alpha1.PhaseMigrating:         v1alpha1.PhaseFailed, // its event was not written: only the agreement was
		v1alpha1.PhaseSucceeded:         v1alpha1.PhaseSucceeded,
	} {
		m := claimed(func(m *v1alpha1.PodMigration) { m.Status.Phase = from })
		c, api, said := testController(t, m)
		s := newSession(c, m, new(corev1.Pod), Plan{})
		for range 2 {
			if err := s.Lost(t.Context(), s.id, errors.New("it was started again")); err != nil {
				t.Fatal(err)
			}
		}
		now := new(v1alpha1.PodMigration)
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(m), now); err != nil {
			t.Fatal(err)
		}
		if now.Status.Phase != want {
			t.Errorf("from %s it becomes %s, want %s", from, now.Status.Phase, want)
		}
		failed := want == v1alpha1.PhaseFailed
		if got := strings.Contains(now.Status.Message, "it was started again") && now.Status.CompletionTime != nil; got != failed || failed != (len(*said) == 1) {
			t.Errorf("from %s: message %q, ended %v, Events %v", from, now.Status.Message, now.Status.CompletionTime, *said)
		}
		// One that nobody knows any more is nobody's to be told of.
		s.object.Name = "gone"
		if err := s.Lost(t.Context(), s.id, errors.New("it was started again")); err != nil {
			t.Error(err)
		}
	}
}
