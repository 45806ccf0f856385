package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"godwit.dev/godwit/nodecontroller"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/events"
)

// told keeps the Events of a test.
type told []events.Event

func (t *told) Record(_ *v1alpha1.PodMigration, e events.Event) { *t = append(*t, e) }

// idle is an engine that has nothing to do, but what it may hold in doubt, or has dropped.
type idle struct {
	doubts, dropped map[string]bool
	unwanted        map[string]error // what it was told of
}

func (idle) Begin(context.Context, string, *nodev1.MigrateRequest, nodecontroller.Orchestrator) (Move, error) {
	return nil, context.Canceled
}
func (i idle) Active(id string) bool { return i.doubts[id] }
func (i idle) CallOff(id string) error {
	if !i.doubts[id] {
		return errors.New("nothing is in doubt")
	}
	delete(i.doubts, id)
	return nil
}
func (i idle) Unwant(id string, why error)                                   { i.unwanted[id] = why }
func (i idle) Dropped(id string) bool                                        { return i.dropped[id] }
func (idle) PinnedImages(context.Context, string) (map[string]string, error) { return nil, nil }
func (idle) SetRecovered(func(string) nodecontroller.Orchestrator)           {}

// testController is a controller of node a on an API server of its own.
func testController(t *testing.T, objects ...client.Object) (*Controller, client.WithWatch, *told) {
	t.Helper()
	scheme, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	api := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.PodMigration{}).WithObjects(objects...).
		WithIndex(&corev1.Pod{}, "spec.nodeName", func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).
		WithIndex(&v1alpha1.PodMigration{}, unfinishedOf, podOfUnfinished).Build()
	said := new(told)
	return &Controller{
		client: api, reader: api, node: "a", engine: idle{}, record: said, log: slog.New(slog.DiscardHandler), most: 1, life: t.Context(),
		sessions: make(map[types.UID]*session), claims: make(unmadeClaims), waiting: make(map[types.UID]waiting),
	}, api, said
}

// claimed is a migration under way whose claim a pod of a ReplicaSet has taken.
func claimed(change ...func(*v1alpha1.PodMigration)) *v1alpha1.PodMigration {
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "move", UID: "u", Finalizers: []string{v1alpha1.Finalizer}},
		Spec:       v1alpha1.PodMigrationSpec{PodName: "web-1"},
		Status: v1alpha1.PodMigrationStatus{
			Phase: v1alpha1.PhaseMigrating, Migration: "pm-u", SourceNode: "a", DestinationNode: "b", Claim: v1alpha1.ClaimTaken,
			SourcePod: &v1alpha1.PodReference{Name: "web-1", UID: "p"}, Owner: &v1alpha1.Owner{APIVersion: "apps/v1", Kind: kindReplicaSet, Name: "web", UID: "o"},
		},
	}
	for _, f := range change {
		f(m)
	}
	return m
}

func (c *Controller) look(t *testing.T) ctrl.Result {
	t.Helper()
	r, err := c.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "move"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAClaimIsOpenedAgainWhenItsPodWasNeverMade(t *testing.T) {
	marked := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-2", Annotations: map[string]string{v1alpha1.AnnotationMigration: "pm-u"}}}
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-3", Annotations: map[string]string{v1alpha1.AnnotationMigration: "pm-v"}}}
	for _, c := range []struct {
		name   string
		m      *v1alpha1.PodMigration
		others []client.Object
		ago    time.Duration
		want   v1alpha1.Claim
	}{
		{"no pod", claimed(), nil, unmadeAfter, v1alpha1.ClaimOpen},
		{"another migration's pod", claimed(), []client.Object{other}, unmadeAfter, v1alpha1.ClaimOpen},
		{"no pod yet", claimed(), nil, unmadeAfter - time.Minute, v1alpha1.ClaimTaken},
		{"a pod that its node has not seen", claimed(), []client.Object{marked}, unmadeAfter, v1alpha1.ClaimTaken},
		{"a pod that is known", claimed(func(m *v1alpha1.PodMigration) { m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-2"} }), nil, unmadeAfter, v1alpha1.ClaimTaken},
		{"a set's", claimed(func(m *v1alpha1.PodMigration) { m.Status.Owner.Kind = kindStatefulSet }), nil, unmadeAfter, v1alpha1.ClaimTaken},
		{"committed, its pod comes after that", claimed(func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseMigrationComplete }), nil, unmadeAfter, v1alpha1.ClaimOpen},
		{"over", claimed(func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseSucceeded }), nil, unmadeAfter, v1alpha1.ClaimTaken},
	} {
		controller, api, said := testController(t, append(c.others, c.m)...)
		controller.sessions["u"] = &session{}
		controller.claims["u"] = time.Now().Add(-c.ago)
		controller.look(t)
		m := new(v1alpha1.PodMigration)
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(c.m), m); err != nil {
			t.Fatal(err)
		}
		reopened := c.want == v1alpha1.ClaimOpen
		if m.Status.Claim != c.want || (len(*said) > 0) != reopened {
			t.Errorf("%s: claim %s, told %v", c.name, m.Status.Claim, *said)
		}
	}
}

// An earlier daemon began the migration, and this one carries on without a session.
func TestAClaimIsOpenedAgainAfterARestart(t *testing.T) {
	controller, api, _ := testController(t, claimed())
	controller.engine = idle{doubts: map[string]bool{"pm-u": true}}
	controller.claims["u"] = time.Now().Add(-unmadeAfter)
	if r := controller.look(t); r.RequeueAfter != lookAgain {
		t.Errorf("it is looked at again in %v", r.RequeueAfter)
	}
	m := new(v1alpha1.PodMigration)
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(claimed()), m); err != nil || m.Status.Claim != v1alpha1.ClaimOpen {
		t.Errorf("claim %s, %v", m.Status.Claim, err)
	}
}

func TestAClaimIsLeftAloneWhileItsPodMayStillCome(t *testing.T) {
	controller, _, _ := testController(t, claimed())
	controller.sessions["u"] = &session{}
	if r := controller.look(t); r.RequeueAfter <= unmadeAfter-time.Minute || r.RequeueAfter > unmadeAfter {
		t.Errorf("it is looked at again in %v", r.RequeueAfter)
	}
	delete(controller.sessions, "u") // its session ends
	controller.look(t)
	if len(controller.claims) != 0 {
		t.Errorf("claims of migrations that nobody waits for: %v", controller.claims)
	}
}

// The pod's node tells of it in the moment in which it is looked for in vain.
func TestAClaimIsNotOpenedAgainstAPodThatComes(t *testing.T) {
	controller, api, said := testController(t, claimed())
	controller.sessions["u"] = &session{}
	controller.claims["u"] = time.Now().Add(-unmadeAfter)
	controller.reader = interceptor.NewClient(api, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if err := c.List(ctx, list, opts...); err != nil {
				return err
			}
			m := new(v1alpha1.PodMigration)
			if err := c.Get(ctx, client.ObjectKeyFromObject(claimed()), m); err != nil {
				return err
			}
			m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-2", UID: "q"}
			return c.Status().Update(ctx, m)
		},
	})
	controller.look(t)
	m := new(v1alpha1.PodMigration)
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(claimed()), m); err != nil {
		t.Fatal(err)
	}
	if m.Status.Claim != v1alpha1.ClaimTaken || len(*said) != 0 {
		t.Errorf("claim %s, told %v", m.Status.Claim, *said)
	}
}
