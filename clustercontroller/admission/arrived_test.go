package admission

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// arrivedOn is movable after its move to node b under its old name, and by what it came.
func arrivedOn(ago time.Duration, change ...func(*v1alpha1.PodMigration)) (*corev1.Pod, v1alpha1.PodMigration) {
	pod := movable(func(p *corev1.Pod) { p.UID, p.Spec.NodeName = "q", "b" })
	m := tried(1, v1alpha1.PhaseSucceeded, ago, append([]func(*v1alpha1.PodMigration){func(m *v1alpha1.PodMigration) {
		m.Status.SourceNode, m.Status.SourcePod = "a", &v1alpha1.PodReference{Name: "web", UID: "p"}
		m.Status.DestinationNode, m.Status.DestinationPod = "b", &v1alpha1.PodReference{Name: "web", UID: "q"}
	}}, change...)...)
	return pod, m
}

func TestWhichPodHasJustComeUnderItsOldName(t *testing.T) {
	for name, c := range map[string]struct {
		ago    time.Duration
		change func(*v1alpha1.PodMigration)
		want   bool
	}{
		"just now":                   {time.Second, func(*v1alpha1.PodMigration) {}, true},
		"a while ago":                {lateAsking, func(*v1alpha1.PodMigration) {}, false},
		"by a user's":                {time.Second, func(m *v1alpha1.PodMigration) { m.Name, m.Labels = "mine", nil }, true},
		"another pod of the name":    {time.Second, func(m *v1alpha1.PodMigration) { m.Status.DestinationPod.UID = "other" }, false},
		"one with a name of its own": {time.Second, func(m *v1alpha1.PodMigration) { m.Status.SourcePod.Name = "web-before" }, false},
		"a move that failed":         {time.Second, func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseFailed }, false},
		"one under way":              {time.Second, func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseMigrationComplete }, false},
		"on the node it left":        {time.Second, func(m *v1alpha1.PodMigration) { m.Status.SourceNode = "b" }, false},
	} {
		pod, m := arrivedOn(c.ago, c.change)
		if have := arrivedBy(pod, []v1alpha1.PodMigration{m}, start); (have != nil) != c.want {
			t.Errorf("%s: %v", name, have)
		}
	}
}

// kubectl drain asks by the name for the pod that has moved, and the one of that name stays; who drains the node
// that it is on now means it.
func TestAnEvictionOfAPodThatHasMovedLeavesTheOneOfItsName(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	pod, m := arrivedOn(time.Second)
	uid := types.UID("q")
	eviction := metav1.TypeMeta{APIVersion: "policy/v1", Kind: "Eviction"}
	byUID := &policyv1.Eviction{TypeMeta: eviction, DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}}
	for name, c := range map[string]struct {
		eviction *policyv1.Eviction
		cordoned bool
		want     int32
	}{
		"of the name":                      {&policyv1.Eviction{TypeMeta: eviction}, false, http.StatusNotFound},
		"of the name, its node is drained": {&policyv1.Eviction{TypeMeta: eviction}, true, http.StatusTooManyRequests},
		"of the very pod that runs there":  {byUID, false, http.StatusTooManyRequests},
	} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: corev1.NodeSpec{Unschedulable: c.cordoned}}
		api := fake.NewClientBuilder().WithScheme(scheme).WithObjects(pod.DeepCopy(), m.DeepCopy(), node).Build()
		h := &evictionHandler{live: api, client: api, options: settings, now: func() time.Time { return start }}
		h.decoder = admission.NewDecoder(scheme)
		raw, err := json.Marshal(c.eviction)
		if err != nil {
			t.Fatal(err)
		}
		got := h.Handle(t.Context(), admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
			Namespace: "shop", Name: "web", Object: runtime.RawExtension{Raw: raw},
		}})
		if got.Allowed || got.Result.Code != c.want {
			t.Errorf("an eviction %s: %+v, want %d", name, got.Result, c.want)
		}
		var all v1alpha1.PodMigrationList
		if err := api.List(t.Context(), &all); err != nil || (len(all.Items) == 1) != (c.want == http.StatusNotFound) {
			t.Errorf("an eviction %s: %d PodMigrations (%v)", name, len(all.Items), err)
		}
	}
}
