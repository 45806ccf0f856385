package kubernetes

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

func TestWhatIsHeldInDoubtIsDroppedIfTheClusterNeverAgreed(t *testing.T) {
	now := metav1.Now()
	unchanged := func(*v1alpha1.PodMigration) {}
	committed := func(m *v1alpha1.PodMigration) { m.Status.CommitTime = &now }
	takenBack := func(m *v1alpha1.PodMigration) { agreed(m); disagree(&m.Status, "BrokenOff", "", 0) }
	for _, c := range []struct {
		name    string
		phase   v1alpha1.Phase
		change  func(*v1alpha1.PodMigration)
		dropped bool
	}{
		{"failed before the cluster agreed", v1alpha1.PhaseFailed, unchanged, true},
		{"cancelled", v1alpha1.PhaseCancelled, unchanged, true},
		{"failed after the cluster agreed", v1alpha1.PhaseFailed, agreed, false},
		{"failed after the cluster agreed, which the source took back", v1alpha1.PhaseFailed, takenBack, true},
		{"cancelled after the cluster agreed, which the source took back", v1alpha1.PhaseCancelled, takenBack, true},
		{"failed after the commit", v1alpha1.PhaseFailed, committed, false},
		{"failed after the commit that the cluster had agreed to", v1alpha1.PhaseFailed, func(m *v1alpha1.PodMigration) { agreed(m); committed(m) }, false},
		{"under way", v1alpha1.PhaseMigrating, unchanged, false},
		{"agreed to", v1alpha1.PhaseMigrating, agreed, false},
		{"committed", v1alpha1.PhaseMigrationComplete, committed, false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-2", UID: "q", Annotations: map[string]string{v1alpha1.AnnotationMigration: "pm-u", v1alpha1.AnnotationMovedBy: "move"},
		}}
		pod.Spec.NodeName = "b"
		m := claimed(func(m *v1alpha1.PodMigration) {
			m.Status.Phase, m.Status.Owner, m.Status.Claim = c.phase, nil, ""
			m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-2", UID: "q"}
			c.change(m)
		})
		controller, api, _ := testController(t, pod, m)
		doubts := map[string]bool{"pm-u": true}
		controller.node, controller.engine = "b", idle{doubts: doubts}
		look := func() {
			t.Helper()
			if _, err := (arrivals{controller}).Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)}); err != nil {
				t.Fatal(err)
			}
		}
		look()
		if doubts["pm-u"] == c.dropped {
			t.Errorf("%s: dropped %v, want %v", c.name, !doubts["pm-u"], c.dropped)
		}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			t.Errorf("%s: its pod, which the daemon had in hand: %v", c.name, err)
		}
		look()
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); apierrors.IsNotFound(err) != c.dropped {
			t.Errorf("%s: then its pod: %v", c.name, err)
		}
	}
}

// agreed has the cluster have agreed to a migration's commit, a minute ago.
func agreed(m *v1alpha1.PodMigration) { agreedAt(m, time.Now().Add(-time.Minute)) }

func agreedAt(m *v1alpha1.PodMigration, at time.Time) {
	m.Status.Conditions = append(m.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionAgreed, Status: metav1.ConditionTrue, Reason: "CommitMayFollow", LastTransitionTime: metav1.NewTime(at),
	})
}

// Before the cluster has agreed, whoever sees that the destination's pod was deleted ends the migration. After that only its source
// does, which hears of it by the destination's daemon.
func TestADeletedPodEndsItsMigrationOrHasItsSourceEndIt(t *testing.T) {
	for _, c := range []struct {
		name             string
		change           func(*v1alpha1.PodMigration)
		failed, unwanted bool
	}{
		{"under way", func(*v1alpha1.PodMigration) {}, true, false},
		{"agreed to", agreed, false, true},
		{"no longer agreed to", func(m *v1alpha1.PodMigration) { agreed(m); disagree(&m.Status, "Dropped", "", 0) }, true, false},
		{"agreed to, the pod comes late and is made again", func(m *v1alpha1.PodMigration) { agreed(m); m.Status.LatePod = true }, false, false},
		{"committed", func(m *v1alpha1.PodMigration) { agreed(m); m.Status.Phase = v1alpha1.PhaseMigrationComplete }, false, false},
		{"of another pod", func(m *v1alpha1.PodMigration) { m.Status.DestinationPod.Name = "web-3" }, false, false},
		{"of another node", func(m *v1alpha1.PodMigration) { m.Status.DestinationNode = "c" }, false, false},
	} {
		m := claimed(func(m *v1alpha1.PodMigration) {
			m.Status.Owner, m.Status.Claim, m.Status.DestinationPod = nil, "", &v1alpha1.PodReference{Name: "web-2", UID: "q"}
			c.change(m)
		})
		controller, api, _ := testController(t, m)
		unwanted := map[string]error{}
		controller.node, controller.engine = "b", idle{unwanted: unwanted}
		gone := ctrl.Request{NamespacedName: client.ObjectKey{Namespace: "shop", Name: "web-2"}}
		if _, err := (arrivals{controller}).Reconcile(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
			t.Fatal(err)
		}
		if failed := m.Status.Phase == v1alpha1.PhaseFailed; failed != c.failed || (unwanted["pm-u"] != nil) != c.unwanted {
			t.Errorf("%s: failed %v, the daemon was told %v", c.name, failed, unwanted)
		}
	}
}

// A source that dies between the cluster's agreement and the destination's vote leaves nothing in doubt: the destination has
// dropped the pod, and says so when the source has had its time to.
func TestADestinationThatDroppedThePodTakesTheClustersAgreementBack(t *testing.T) {
	now := metav1.Now()
	just := func(m *v1alpha1.PodMigration) { agreedAt(m, now.Time) }
	for _, c := range []struct {
		name    string
		change  func(*v1alpha1.PodMigration)
		dropped bool
		want    metav1.ConditionStatus
		again   bool
	}{
		{"dropped a while ago", agreed, true, metav1.ConditionFalse, false},
		{"dropped just now", just, true, metav1.ConditionTrue, true},
		{"held", agreed, false, metav1.ConditionTrue, false},
		{"committed", func(m *v1alpha1.PodMigration) {
			agreed(m)
			m.Status.Phase, m.Status.CommitTime = v1alpha1.PhaseMigrationComplete, &now
		}, true, metav1.ConditionTrue, false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-2", UID: "q", Annotations: map[string]string{v1alpha1.AnnotationMigration: "pm-u", v1alpha1.AnnotationMovedBy: "move"},
		}}
		pod.Spec.NodeName = "b"
		m := claimed(func(m *v1alpha1.PodMigration) {
			m.Status.Owner, m.Status.Claim, m.Status.DestinationPod = nil, "", &v1alpha1.PodReference{Name: "web-2", UID: "q"}
			c.change(m)
		})
		controller, api, _ := testController(t, pod, m)
		controller.node, controller.engine = "b", idle{dropped: map[string]bool{"pm-u": c.dropped}}
		r, err := (arrivals{controller}).Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
		if err != nil {
			t.Fatal(err)
		}
		if again := r.RequeueAfter > 0 && r.RequeueAfter <= droppedAfter; again != c.again {
			t.Errorf("%s: looked at again in %v", c.name, r.RequeueAfter)
		}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
			t.Fatal(err)
		}
		if got := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionAgreed); got == nil || got.Status != c.want || m.Status.Phase.Over() {
			t.Errorf("%s: %s, condition %+v, want %s", c.name, m.Status.Phase, got, c.want)
		}
	}
}
