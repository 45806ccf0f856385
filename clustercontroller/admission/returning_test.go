package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// An owner whose pod was taken out of its selection for a move that comes to nothing must not make another.
func TestNoPodIsMadeInPlaceOfOneThatComesBack(t *testing.T) {
	type (
		migrations = func(*v1alpha1.PodMigration)
		pods       = func(*corev1.Pod)
	)
	yes := true
	source := func(change ...pods) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-abcde", UID: "p", Annotations: map[string]string{v1alpha1.AnnotationReleased: "{}"}}}
		for _, f := range change {
			f(p)
		}
		return p
	}
	destination := func(change ...pods) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-fghij", UID: "q"}}
		for _, f := range change {
			f(p)
		}
		return p
	}
	going := func(p *corev1.Pod) {
		p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: start}, []string{"a/b"}
	}
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	another := func(p *corev1.Pod) { p.UID = "z" }
	putBack := func(p *corev1.Pod) { p.Annotations = nil }
	adopted := func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u", Controller: &yes}}
	}
	moves := func(change ...migrations) v1alpha1.PodMigration {
		return open("m", "ReplicaSet", 0, append([]migrations{func(m *v1alpha1.PodMigration) {
			m.Finalizers, m.Status.Claim = []string{v1alpha1.Finalizer}, v1alpha1.ClaimTaken
			m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-fghij", UID: "q"}
		}}, change...)...)
	}
	phase := func(p v1alpha1.Phase) migrations { return func(m *v1alpha1.PodMigration) { m.Status.Phase = p } }
	unseen := func(m *v1alpha1.PodMigration) { m.Status.DestinationPod = nil }
	kind := func(k string) migrations { return func(m *v1alpha1.PodMigration) { m.Status.Owner.Kind = k } }
	cleaned := func(m *v1alpha1.PodMigration) { m.Finalizers = nil }
	committed := func(m *v1alpha1.PodMigration) {
		m.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionCommitted, Status: metav1.ConditionTrue}}
	}
	ofAnother := func(p *corev1.Pod) { p.OwnerReferences[0].UID = "v" }
	ofNoClass := func(p *corev1.Pod) { p.Spec.RuntimeClassName = nil }
	for name, c := range map[string]struct {
		pod   *corev1.Pod
		m     v1alpha1.PodMigration
		there []client.Object
		want  bool
	}{
		"the destination's pod is gone":                  {newPod("ReplicaSet"), moves(), []client.Object{source()}, true},
		"it is going":                                    {newPod("ReplicaSet"), moves(), []client.Object{source(), destination(going)}, true},
		"it has ended":                                   {newPod("ReplicaSet"), moves(), []client.Object{source(), destination(ended)}, true},
		"another has its name":                           {newPod("ReplicaSet"), moves(), []client.Object{source(), destination(another)}, true},
		"it was never seen, and the migration failed":    {newPod("ReplicaSet"), moves(unseen, phase(v1alpha1.PhaseFailed)), []client.Object{source()}, true},
		"gone when the cluster has agreed to the commit": {newPod("ReplicaSet"), moves(phase(v1alpha1.PhaseMigrationComplete)), []client.Object{source()}, true},
		"failed, and the source's pod not back yet":      {newPod("ReplicaSet"), moves(phase(v1alpha1.PhaseFailed)), []client.Object{source(putBack)}, true},
		"a Job's": {newPod("Job"), moves(kind("Job")), []client.Object{source()}, true},

		"the destination's pod is there":           {newPod("ReplicaSet"), moves(), []client.Object{source(), destination()}, false},
		"the source's pod is its owner's":          {newPod("ReplicaSet"), moves(phase(v1alpha1.PhaseFailed)), []client.Object{source(putBack, adopted)}, false},
		"the source's pod is gone":                 {newPod("ReplicaSet"), moves(), nil, false},
		"the source's pod is going":                {newPod("ReplicaSet"), moves(), []client.Object{source(going)}, false},
		"the source's pod has ended":               {newPod("ReplicaSet"), moves(), []client.Object{source(ended)}, false},
		"another has the source's pod's name":      {newPod("ReplicaSet"), moves(), []client.Object{source(another)}, false},
		"committed, and the destination lost it":   {newPod("ReplicaSet"), moves(phase(v1alpha1.PhaseMigrationComplete), committed), []client.Object{source()}, false},
		"it has moved":                             {newPod("ReplicaSet"), moves(phase(v1alpha1.PhaseSucceeded)), []client.Object{source()}, false},
		"nothing is left of the migration":         {newPod("ReplicaSet"), moves(phase(v1alpha1.PhaseFailed), cleaned), []client.Object{source()}, false},
		"a StatefulSet's, which keeps its name":    {newPod("StatefulSet", func(p *corev1.Pod) { p.Name = "web-abcde" }), moves(kind("StatefulSet")), []client.Object{source()}, false},
		"another owner's pod":                      {newPod("ReplicaSet", ofAnother), moves(), []client.Object{source()}, false},
		"a pod of another class than is moved":     {newPod("ReplicaSet", ofNoClass), moves(), []client.Object{source()}, false},
		"a pod that nobody makes again":            {newPod("ReplicaSet", func(p *corev1.Pod) { p.OwnerReferences = nil }), moves(), []client.Object{source()}, false},
		"a migration that has taken up no pod yet": {newPod("ReplicaSet"), moves(func(m *v1alpha1.PodMigration) { m.Status = v1alpha1.PodMigrationStatus{} }), []client.Object{source()}, false},
	} {
		h := &claimHandler{live: fake.NewClientBuilder().WithObjects(c.there...).Build()}
		got, err := h.returning(t.Context(), c.pod, []v1alpha1.PodMigration{c.m})
		if err != nil || (got != nil) != c.want {
			t.Errorf("%s: %v, want %v (%v)", name, got != nil, c.want, err)
		}
	}
	// What cannot be found out is an error, and the pod refused.
	h := &claimHandler{live: fake.NewClientBuilder().WithScheme(runtime.NewScheme()).Build()}
	if _, err := h.returning(t.Context(), newPod("ReplicaSet"), []v1alpha1.PodMigration{moves()}); err == nil {
		t.Error("an API server that does not answer is no error")
	}
}
