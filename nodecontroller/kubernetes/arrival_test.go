package kubernetes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

func TestWhatIsHeldInDoubtIsDroppedIfTheClusterNeverAgreed(t *testing.T) {
	now := metav1.Now()
	for _, c := range []struct {
		name    string
		phase   v1alpha1.Phase
		agreed  bool
		dropped bool
	}{
		{"failed before the cluster agreed", v1alpha1.PhaseFailed, false, true},
		{"cancelled", v1alpha1.PhaseCancelled, false, true},
		{"failed after the cluster agreed", v1alpha1.PhaseFailed, true, false},
		{"under way", v1alpha1.PhaseMigrating, false, false},
		{"committed", v1alpha1.PhaseMigrationComplete, true, false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-2", UID: "q", Annotations: map[string]string{v1alpha1.AnnotationMigration: "pm-u", v1alpha1.AnnotationMovedBy: "move"},
		}}
		pod.Spec.NodeName = "b"
		m := claimed(func(m *v1alpha1.PodMigration) {
			m.Status.Phase, m.Status.Owner, m.Status.Claim = c.phase, nil, ""
			m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-2", UID: "q"}
			if c.agreed {
				m.Status.CommitTime = &now
			}
		})
		controller, api, _ := testController(t, pod, m)
		doubts := map[string]bool{"pm-u": true}
		controller.node, controller.engine = "b", idle{doubts}
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
