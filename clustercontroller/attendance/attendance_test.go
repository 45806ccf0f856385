package attendance

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/nodefacts"
)

// scene is an attendant at a time that stands still, and what it sees.
type scene struct {
	t *testing.T
	client.WithWatch
	*attendant
	time time.Time
}

func newScene(t *testing.T, objects ...client.Object) *scene {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	s := &scene{t: t, time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	for _, o := range objects {
		o.SetCreationTimestamp(metav1.NewTime(s.time))
	}
	s.WithWatch = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.PodMigration{}, &corev1.Pod{}, &corev1.Node{}).WithObjects(objects...).Build()
	now := func() time.Time { return s.time }
	s.attendant = &attendant{client: cached{s.WithWatch}, live: s.WithWatch, now: now, nodes: newNodes(s.WithWatch, now)}
	return s
}

// cached reads PodMigrations as the manager's cache has them.
type cached struct{ client.Client }

func (c cached) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	err := c.Client.Get(ctx, key, o, opts...)
	if m, ok := o.(*v1alpha1.PodMigration); ok && err == nil {
		slimmed, err := slim(m.DeepCopy())
		slimmed.(*v1alpha1.PodMigration).DeepCopyInto(m)
		return err
	}
	return err
}

// look has the attendant look once, and returns the object, nil if it is gone, and when it will look again.
func (s *scene) look() (*v1alpha1.PodMigration, time.Duration) {
	s.t.Helper()
	key := client.ObjectKey{Namespace: "shop", Name: "move"}
	r, err := s.Reconcile(s.t.Context(), reconcile.Request{NamespacedName: key})
	if err != nil {
		s.t.Fatal(err)
	}
	m := new(v1alpha1.PodMigration)
	if err := s.WithWatch.Get(s.t.Context(), key, m); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, r.RequeueAfter
		}
		s.t.Fatal(err)
	}
	return m, r.RequeueAfter
}

func migration(change ...func(*v1alpha1.PodMigration)) *v1alpha1.PodMigration {
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "move", UID: "u"},
		Spec:       v1alpha1.PodMigrationSpec{PodName: "cache", Timeout: &metav1.Duration{Duration: 30 * time.Minute}},
	}
	for _, f := range change {
		f(m)
	}
	return m
}

func podOn(node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cache", UID: "source"}}
	p.Spec.NodeName, p.Spec.Containers = node, []corev1.Container{{Name: "c"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func nodeThat(ready corev1.ConditionStatus, facts string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if facts != "" {
		n.Annotations = map[string]string{nodefacts.Annotation: facts}
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Message: "kubelet is away"}}
	return n
}

func TestWhatNobodyTakesUpSaysWhy(t *testing.T) {
	unscheduled := podOn("", func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/2 nodes have room"}}
	})
	cancelled := func(m *v1alpha1.PodMigration) { m.Spec.Cancel = true }
	for _, c := range []struct {
		name     string
		m        *v1alpha1.PodMigration
		others   []client.Object
		phase    v1alpha1.Phase
		reason   string
		contains string
	}{
		{"no pod", migration(), nil, v1alpha1.PhaseFailed, "PodNotFound", "there is no pod cache in namespace shop"},
		{"a pod that has ended", migration(), []client.Object{podOn("a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, v1alpha1.PhaseFailed, "PodEnded", "nothing to move"},
		{"a pod that is on no node", migration(), []client.Object{unscheduled}, v1alpha1.PhasePending, "PodNotScheduled", "0/2 nodes have room"},
		{"a node that is not there", migration(), []client.Object{podOn("a")}, v1alpha1.PhasePending, "NodeNotFound", "node a"},
		{"a node that is not Ready", migration(), []client.Object{podOn("a"), nodeThat(corev1.ConditionUnknown, "{}")}, v1alpha1.PhasePending, "NodeNotReady", "kubelet is away"},
		{"a node without a daemon", migration(), []client.Object{podOn("a"), nodeThat(corev1.ConditionTrue, "")}, v1alpha1.PhasePending, "NoGodwitNode", "install it there"},
		{"a daemon that is silent", migration(), []client.Object{podOn("a"), nodeThat(corev1.ConditionTrue, "{}")}, v1alpha1.PhasePending, "GodwitNodeSilent", "spec.nodeName=a"},
		{"cancelled", migration(cancelled), []client.Object{podOn("a"), nodeThat(corev1.ConditionTrue, "{}")}, v1alpha1.PhaseCancelled, "Cancelled", "cancelled before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, append(c.others, c.m)...)
			if m, again := s.look(); m.Status.Phase != "" || again != grace {
				t.Fatalf("at once it is %+v, and looked at again in %v", m.Status, again)
			}
			s.time = s.time.Add(grace)
			m, again := s.look()
			if m.Status.Phase != c.phase || !strings.Contains(m.Status.Message, c.contains) || again != untakenAgain {
				t.Errorf("%s: %q, again in %v; want %s: %q", m.Status.Phase, m.Status.Message, again, c.phase, c.contains)
			}
			taken := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionTakenUp)
			if taken == nil || taken.Status != metav1.ConditionFalse || taken.Reason != c.reason || taken.Message != m.Status.Message {
				t.Errorf("condition %+v, want reason %s", taken, c.reason)
			}
			if over := m.Status.Phase.Over(); over != (m.Status.CompletionTime != nil) || over != meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionCleaned) {
				t.Errorf("status %+v", m.Status)
			}
			version := m.ResourceVersion
			if m, again := s.look(); m.ResourceVersion != version {
				t.Errorf("the same is written again, and looked at in %v", again)
			}
		})
	}
}

func TestWhatNobodyTakesUpEndsWithItsTimeOrItsPod(t *testing.T) {
	s := newScene(t, migration(), podOn(""))
	s.time = s.time.Add(grace)
	if m, _ := s.look(); m.Status.Phase != v1alpha1.PhasePending {
		t.Fatalf("it is %+v", m.Status)
	}
	s.time = s.time.Add(30 * time.Minute)
	if m, _ := s.look(); m.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(m.Status.Message, "within 30m0s: waits: pod cache is on no node") {
		t.Errorf("after its time it is %s: %s", m.Status.Phase, m.Status.Message)
	}

	s = newScene(t, migration(), podOn(""))
	s.time = s.time.Add(grace)
	s.look()
	if err := s.Delete(t.Context(), podOn("")); err != nil {
		t.Fatal(err)
	}
	if m, _ := s.look(); m.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(m.Status.Message, "there is no pod") {
		t.Errorf("without its pod it is %s: %s", m.Status.Phase, m.Status.Message)
	}
	if _, again := s.look(); again != 0 {
		t.Errorf("one that is over is looked at again in %v", again)
	}
}

// A node that takes it up in the moment in which it is given up wins.
func TestANodeThatTakesOneUpWins(t *testing.T) {
	s := newScene(t, migration())
	s.time = s.time.Add(grace)
	s.live = interceptor.NewClient(s.WithWatch, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			err := c.Get(ctx, key, o, opts...)
			if read, ok := o.(*v1alpha1.PodMigration); ok && err == nil {
				m := read.DeepCopy()
				m.Status.Phase, m.Status.SourceNode = v1alpha1.PhasePending, "a"
				return c.Status().Update(ctx, m)
			}
			return err
		},
	})
	if m, again := s.look(); m.Status.SourceNode != "a" || m.Status.Phase != v1alpha1.PhasePending || again != untakenAgain {
		t.Errorf("it is %+v, and looked at again in %v", m.Status, again)
	}
}

// What the cache leaves out must not be taken for what an object has.
func TestWritingLeavesWhatTheCacheLeavesOut(t *testing.T) {
	s := newScene(t, taken(v1alpha1.PhaseMigrating, func(m *v1alpha1.PodMigration) {
		m.Annotations = map[string]string{"note": "x"}
		m.Status.Rounds = []v1alpha1.Round{{Number: 0, DirtyPages: 7}}
	}))
	s.look()
	s.time = s.time.Add(lostAfter)
	m, _ := s.look()
	if m.Status.Phase != v1alpha1.PhaseFailed || len(m.Status.Rounds) != 1 || m.Annotations["note"] != "x" || m.Status.Migration != "pm-u" {
		t.Errorf("%v, %+v", m.Annotations, m.Status)
	}
}

func TestProgressIsNoReasonToLook(t *testing.T) {
	was := taken(v1alpha1.PhaseMigrating)
	for name, c := range map[string]struct {
		change func(*v1alpha1.PodMigration)
		want   bool
	}{
		"progress":       {func(m *v1alpha1.PodMigration) { m.Status.BytesSent = 9; m.Status.Message = "x" }, false},
		"another phase":  {func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseFailed }, true},
		"a cancellation": {func(m *v1alpha1.PodMigration) { m.Spec.Cancel = true }, true},
		"a deletion":     {func(m *v1alpha1.PodMigration) { now := metav1.Now(); m.DeletionTimestamp = &now }, true},
		"its release":    {func(m *v1alpha1.PodMigration) { m.Finalizers = nil }, true},
	} {
		now := was.DeepCopy()
		c.change(now)
		if got := tells(event.UpdateEvent{ObjectOld: was, ObjectNew: now}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
