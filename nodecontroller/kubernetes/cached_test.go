package kubernetes

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// full is a migration of which everything is known.
func full(p v1alpha1.Phase, finalizer bool) *v1alpha1.PodMigration {
	m := claimed(func(m *v1alpha1.PodMigration) {
		m.ResourceVersion, m.CreationTimestamp = "7", metav1.Now()
		m.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 400)}
		m.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(`{"f:spec":"` + strings.Repeat("x", 1500) + `"}`)}}
		s := &m.Status
		s.Phase, s.Message, s.EngineReason = p, "why it ended", "the kernel has it"
		s.DestinationPod = &v1alpha1.PodReference{Name: "web-2", UID: "q", IP: "10.0.0.9"}
		for i := range int32(12) {
			s.Rounds = append(s.Rounds, v1alpha1.Round{Number: i, DirtyPages: 1000, Duration: metav1.Duration{Duration: time.Second}})
		}
		for _, c := range []string{"TakenUp", "Movable", "Prepared", "Parked", "Converged", "Committed", "Cleaned"} {
			s.Conditions = append(s.Conditions, metav1.Condition{Type: c, Status: metav1.ConditionTrue, Reason: "Because", Message: "as it is to be"})
		}
		s.Containers = []v1alpha1.ContainerStatus{{Name: "redis", Image: "registry/redis@sha256:0123456789012345678901234567890123456789"}}
	})
	if !finalizer {
		m.Finalizers = nil
	}
	return m
}

func TestOfAMigrationThatIsOverLittleIsKept(t *testing.T) {
	size := func(m any) int {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	m := full(v1alpha1.PhaseSucceeded, false)
	before := size(m)
	slimmed, err := slim(m)
	if err != nil {
		t.Fatal(err)
	}
	if after := size(slimmed); after > 700 || after > before/4 {
		t.Errorf("%d bytes of %d are kept: %+v", after, before, slimmed)
	}
	running := full(v1alpha1.PhaseMigrating, true)
	want := running.DeepCopy()
	want.ManagedFields = nil
	if kept, err := slim(running); err != nil || !reflect.DeepEqual(kept, want) {
		t.Errorf("of one that is under way is kept %+v, %v", kept, err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}}
	if kept, err := slim(pod); err != nil || kept != any(pod) {
		t.Errorf("another object: %+v, %v", kept, err)
	}
}

func TestWhatIsDoneIsTheSameByWhatIsKept(t *testing.T) {
	views := []view{{}, {here: true}, {followed: true}, {active: true}, {here: true, followed: true, active: true}}
	for _, p := range []v1alpha1.Phase{v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled} {
		for _, finalizer := range []bool{true, false} {
			m := full(p, finalizer)
			slimmed, err := slim(m.DeepCopy())
			if err != nil {
				t.Fatal(err)
			}
			kept := slimmed.(*v1alpha1.PodMigration)
			for _, v := range views {
				if want, got := decide(m, v), decide(kept, v); got != want {
					t.Errorf("%s, finalizer %v, %+v: %v, want %v", p, finalizer, v, got, want)
				}
				if finalizer && decide(m, v) == actAbort && whyAbort(kept).Error() != whyAbort(m).Error() {
					t.Errorf("%s is broken off for %v, want %v", p, whyAbort(kept), whyAbort(m))
				}
			}
			if idOf(kept) != idOf(m) || decideArrival(kept, false) != decideArrival(m, false) || (len(arrivalOf(t.Context(), kept)) > 0) != finalizer {
				t.Errorf("%s, finalizer %v: %+v", p, finalizer, kept)
			}
		}
	}
}

func TestAPodConcernsTheMigrationsThatWaitForIt(t *testing.T) {
	over, other := claimed(), claimed()
	over.Name, over.UID, over.Status.Phase = "over", "over", v1alpha1.PhaseSucceeded
	other.Name, other.UID, other.Spec.PodName = "other", "other", "web-9"
	c, _, _ := testController(t, claimed(), over, other)
	requests := c.migrationsOf(t.Context(), movable())
	if len(requests) != 1 || requests[0].NamespacedName != client.ObjectKeyFromObject(claimed()) {
		t.Errorf("it concerns %v", requests)
	}
}
