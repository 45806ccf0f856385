package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"godwit.dev/godwit/nodecontroller"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// lateMove is the session of a late pod's move, on a stand-in for an API server.
func lateMove(t *testing.T, owner *v1alpha1.Owner, change ...func(*v1alpha1.PodMigration)) *session {
	t.Helper()
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	source := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0", UID: "p", Labels: map[string]string{"app": "cart"}},
		Spec:       corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "main", Image: "cart:latest"}}},
	}
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "move", UID: "m"},
		Status: v1alpha1.PodMigrationStatus{
			Phase: v1alpha1.PhaseMigrating, SourceNode: "a", DestinationNode: "b", LatePod: true, Owner: owner,
			SourcePod:  &v1alpha1.PodReference{Name: "cart-0", UID: "p"},
			Containers: []v1alpha1.ContainerStatus{{Name: "main", Image: "cart@sha256:1"}},
		},
	}
	for _, f := range change {
		f(m)
	}
	api := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(m).WithObjects(source, m).Build()
	live := new(v1alpha1.PodMigration)
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(m), live); err != nil {
		t.Fatal(err)
	}
	c := &Controller{client: api, reader: api, node: "a", log: slog.New(slog.DiscardHandler)}
	named := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart-0", UID: "p"}}
	return newSession(c, live, named, recoveredPlan(live)) // as of an earlier daemon's
}

func (s *session) live(t *testing.T) *v1alpha1.PodMigration {
	t.Helper()
	m := new(v1alpha1.PodMigration)
	if err := s.c.reader.Get(t.Context(), client.ObjectKeyFromObject(s.object), m); err != nil {
		t.Fatal(err)
	}
	return m
}

var aStatefulSet = &v1alpha1.Owner{APIVersion: "apps/v1", Kind: kindStatefulSet, Name: "cart", UID: "s"}

func TestTheCommitOfALatePodOpensItsStatefulSetsClaim(t *testing.T) {
	for name, k := range map[string]struct {
		owner *v1alpha1.Owner
		claim v1alpha1.Claim
	}{"a StatefulSet's": {aStatefulSet, v1alpha1.ClaimOpen}, "a bare pod": {nil, ""}} {
		s := lateMove(t, k.owner)
		if err := s.Await(t.Context(), ""); err != nil {
			t.Errorf("%s: the wait before it: %v", name, err)
		}
		if err := s.Agree(t.Context(), ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := s.live(t); got.Status.Phase != v1alpha1.PhaseMigrating || got.AgreedSince() == nil || got.Status.Claim != k.claim {
			t.Errorf("%s: phase %s, conditions %+v, claim %q", name, got.Status.Phase, got.Status.Conditions, got.Status.Claim)
		}
	}
}

func TestACommitAgreedToBeforeIsAgreedToAgain(t *testing.T) {
	for name, before := range map[string]func(*v1alpha1.PodMigration){
		"agreed to":              agreed,
		"by an older version":    func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseMigrationComplete },
		"agreed to, and written": func(m *v1alpha1.PodMigration) { agreed(m); m.Status.Phase = v1alpha1.PhaseMigrationComplete },
	} {
		s := lateMove(t, aStatefulSet, before, func(m *v1alpha1.PodMigration) { m.Status.Claim, m.Spec.Cancel = v1alpha1.ClaimTaken, true })
		if err := s.Agree(t.Context(), ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := s.live(t).Status.Claim; got != v1alpha1.ClaimTaken {
			t.Errorf("%s: the claim is %s", name, got)
		}
	}
}

func TestALatePodsMoveThatIsCalledOffDoesNotCommit(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.PodMigration){
		"cancelled":                  func(m *v1alpha1.PodMigration) { m.Spec.Cancel = true },
		"over":                       func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseFailed },
		"over, and agreed to before": func(m *v1alpha1.PodMigration) { agreed(m); m.Status.Phase = v1alpha1.PhaseFailed },
	} {
		s := lateMove(t, aStatefulSet, change)
		before := s.object.Status.Conditions
		for call, f := range map[string]func(context.Context, string) error{"await": s.Await, "agree": s.Agree} {
			if err := f(t.Context(), ""); err == nil || name == "cancelled" && !errors.Is(err, nodecontroller.ErrCancelled) {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
		if got := s.live(t).Status; got.Claim != "" || got.Phase.Committed() || len(got.Conditions) > len(before) {
			t.Errorf("%s: phase %s, claim %s", name, got.Phase, got.Claim)
		}
	}
}

// pods are all but the source's.
func (s *session) otherPods(t *testing.T) []corev1.Pod {
	t.Helper()
	all := new(corev1.PodList)
	if err := s.c.reader.List(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	var others []corev1.Pod
	for _, p := range all.Items {
		if p.UID != "p" {
			others = append(others, p)
		}
	}
	return others
}

func TestABareLatePodIsCopiedOnceWhileItsSourceIsThere(t *testing.T) {
	s := lateMove(t, nil)
	for range 2 {
		if err := s.MakePod(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	pods := s.otherPods(t)
	if len(pods) != 1 || pods[0].Spec.NodeName != "b" || pods[0].Spec.Containers[0].Image != "cart@sha256:1" || pods[0].Annotations[v1alpha1.AnnotationMigration] != "pm-m" {
		t.Fatalf("copies: %+v", pods)
	}
	if got := s.live(t).Status.DestinationPod; got == nil || got.Name != pods[0].Name {
		t.Errorf("the status names %+v, not %s", got, pods[0].Name)
	}
	// It runs, and was deleted: a daemon that comes back makes no other.
	for range 2 {
		if err := s.RemoveSource(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.c.client.Delete(t.Context(), &pods[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.MakePod(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if pods := s.otherPods(t); len(pods) != 0 {
		t.Errorf("copies after all: %+v", pods)
	}
}

func TestAStatefulSetsPodIsMadeByItsOwnerOnly(t *testing.T) {
	s := lateMove(t, aStatefulSet)
	if err := s.MakePod(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if pods := s.otherPods(t); len(pods) != 0 {
		t.Errorf("made: %+v", pods)
	}
}
