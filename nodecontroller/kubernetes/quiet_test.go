package kubernetes

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// counted is an API server's stand-in that counts what it is asked and told of PodMigrations.
func counted(api client.WithWatch) (_ client.WithWatch, reads, writes *atomic.Int32) {
	reads, writes = new(atomic.Int32), new(atomic.Int32)
	return interceptor.NewClient(api, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if _, ok := o.(*v1alpha1.PodMigration); ok {
				reads.Add(1)
			}
			return c.Get(ctx, key, o, opts...)
		},
		SubResourceUpdate: func(ctx context.Context, c client.Client, name string, o client.Object, opts ...client.SubResourceUpdateOption) error {
			writes.Add(1)
			return c.SubResource(name).Update(ctx, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			writes.Add(1)
			return c.SubResource(name).Patch(ctx, o, p, opts...)
		},
	}), reads, writes
}

func TestFromTheFreezeToTheCommitNothingIsWritten(t *testing.T) {
	m := claimed(func(m *v1alpha1.PodMigration) {
		m.Status.Owner, m.Status.Claim, m.Status.Containers = nil, "", []v1alpha1.ContainerStatus{{Name: "main"}}
	})
	controller, api, said := testController(t, m)
	api, _, writes := counted(api)
	controller.client, controller.reader = api, api
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
		t.Fatal(err)
	}
	s := newSession(controller, m, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "p"}}, Plan{Node: "b"})
	s.log = slog.New(slog.DiscardHandler)
	rounds := uint64(0)
	happens := func(kind string, p nodev1.Phase) (written int32) {
		t.Helper()
		before := writes.Load()
		rounds++
		e := &nodev1.Event{Kind: kind, Phase: p, Progress: &nodev1.Progress{WireBytesSent: rounds}}
		if kind != "progress" {
			e.Message = kind
		}
		if err := s.happened(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		return writes.Load() - before
	}
	if n := happens("progress", nodev1.Phase_PHASE_MIGRATING); n != 1 {
		t.Errorf("progress of the rounds: %d writes", n)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Quiet(ended, ""); err == nil {
		t.Error("quiet, with the freeze not written down")
	}
	s.progress = s.progress.Add(-2 * progressInterval)
	if n := happens("freezing", nodev1.Phase_PHASE_MIGRATING); n != 0 || len(*said) != 1 {
		t.Errorf("that the pod is to be frozen: %d writes before the cluster's agreement, %d Events", n, len(*said))
	}
	if err := s.Quiet(t.Context(), ""); err != nil {
		t.Error(err)
	}
	before := writes.Load()
	if err := s.Agree(t.Context(), ""); err != nil || writes.Load() != before+1 {
		t.Errorf("the agreement: %d writes, %v", writes.Load()-before, err)
	}
	if got := s.live(t); got.Status.Message != "freezing" || got.Status.Containers[0].State != v1alpha1.ContainerFrozen || got.AgreedSince() == nil || got.Status.Phase.Committed() {
		t.Errorf("then the status is %+v", got.Status)
	}
	for range 3 {
		if n := happens("progress", nodev1.Phase_PHASE_MIGRATING); n != 0 {
			t.Errorf("progress while the pod is frozen: %d writes", n)
		}
	}
	if n := happens("committed", nodev1.Phase_PHASE_MIGRATION_COMPLETE); n != 0 {
		t.Errorf("committed: %d writes", n)
	}
	if n := happens("progress", nodev1.Phase_PHASE_MIGRATION_COMPLETE); n != 0 {
		t.Errorf("progress right after the commit: %d writes", n)
	}
	if n := happens("resumed", nodev1.Phase_PHASE_MIGRATION_COMPLETE); n != 1 || len(*said) != 3 {
		t.Errorf("it runs: %d writes, and %d Events", n, len(*said))
	}
	if got := s.live(t).Status; got.Phase != v1alpha1.PhaseMigrationComplete || got.CommitTime == nil {
		t.Errorf("it is committed, and the status is %+v", got)
	}
	if n := happens("progress", nodev1.Phase_PHASE_MIGRATION_COMPLETE); n != 1 {
		t.Errorf("progress of what is still fetched: %d writes", n)
	}
}

// What is written of a migration that goes on is no reason to ask the API server: its pod may be frozen.
func TestAPodOnItsWayIsLookedAtInTheCache(t *testing.T) {
	now := metav1.Now()
	const agreedTo v1alpha1.Phase = "Migrating, agreed to"
	for _, c := range []struct {
		name  string
		phase v1alpha1.Phase
		ip    string // of the pod, while the status has 10.0.0.9
		ready bool
		asked bool
	}{
		{"copied", v1alpha1.PhaseMigrating, "10.0.0.9", false, false},
		{"not in kubelet's status yet", v1alpha1.PhaseMigrating, "", false, false},
		{"with another address", v1alpha1.PhaseMigrating, "10.0.0.8", false, true},
		{"agreed to", agreedTo, "10.0.0.9", false, false},
		{"runs before it is written that it does", agreedTo, "10.0.0.9", true, true},
		{"committed", v1alpha1.PhaseMigrationComplete, "10.0.0.9", false, false},
		{"runs", v1alpha1.PhaseMigrationComplete, "10.0.0.9", true, true},
		{"called off", v1alpha1.PhaseFailed, "10.0.0.9", false, true},
		{"moved", v1alpha1.PhaseSucceeded, "10.0.0.9", true, true},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-2", UID: "q", Annotations: map[string]string{v1alpha1.AnnotationMigration: "pm-u", v1alpha1.AnnotationMovedBy: "move"},
		}}
		pod.Spec.NodeName, pod.Status.PodIP = "b", c.ip
		if c.ready {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}
		}
		m := claimed(func(m *v1alpha1.PodMigration) {
			m.Status.Phase, m.Status.Owner, m.Status.Claim, m.Status.CommitTime = c.phase, nil, "", &now
			if c.phase == agreedTo {
				m.Status.CommitTime = nil
				agreed(m)
			}
			m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-2", UID: "q", IP: "10.0.0.9"}
		})
		controller, api, _ := testController(t, pod, m)
		live, reads, writes := counted(api)
		controller.node, controller.reader, controller.engine = "b", live, idle{doubts: map[string]bool{"pm-u": true}}
		controller.client = api
		if _, err := (arrivals{controller}).Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)}); err != nil {
			t.Fatal(err)
		}
		if asked := reads.Load() > 0; asked != c.asked || writes.Load() > 0 {
			t.Errorf("%s: the API server was asked %d times and told %d times", c.name, reads.Load(), writes.Load())
		}
	}
}

// The others of its namespace, which may be many, are not looked through for it.
func TestAPodThatRunsLosesItsMarkAlone(t *testing.T) {
	for _, introduced := range []bool{true, false} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-2", UID: "q", Annotations: map[string]string{v1alpha1.AnnotationMigration: "pm-u", v1alpha1.AnnotationMovedBy: "move"},
		}}
		m := claimed(func(m *v1alpha1.PodMigration) {
			m.Status.Phase = v1alpha1.PhaseMigrationComplete
			if introduced {
				m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-2", UID: "q"}
			}
		})
		controller, api, _ := testController(t, pod, m)
		lists := 0
		controller.reader = interceptor.NewClient(api, interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, all client.ObjectList, opts ...client.ListOption) error {
				lists++
				return c.List(ctx, all, opts...)
			},
		})
		newSession(controller, m, pod, Plan{Node: "b"}).settleArrival(t.Context())
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil || pod.Annotations[v1alpha1.AnnotationMigration] != "" {
			t.Errorf("introduced %v: its mark is still there: %v, %v", introduced, pod.Annotations, err)
		}
		if (lists == 0) != introduced {
			t.Errorf("introduced %v: %d lists of pods", introduced, lists)
		}
	}
}
