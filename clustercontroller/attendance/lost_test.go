package attendance

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// taken is a migration from node a to node b.
func taken(p v1alpha1.Phase, change ...func(*v1alpha1.PodMigration)) *v1alpha1.PodMigration {
	return migration(append([]func(*v1alpha1.PodMigration){func(m *v1alpha1.PodMigration) {
		m.Finalizers = []string{v1alpha1.Finalizer}
		m.Status = v1alpha1.PodMigrationStatus{
			Phase: p, Migration: "pm-u", SourceNode: "a", DestinationNode: "b", Message: "before",
			SourcePod: &v1alpha1.PodReference{Name: "cache", UID: "source"},
		}
		if p.Over() {
			now := metav1.Now()
			m.Status.CompletionTime = &now
		}
	}}, change...)...)
}

func committedAt(t time.Time) func(*v1alpha1.PodMigration) {
	return func(m *v1alpha1.PodMigration) { m.Status.CommitTime = &metav1.Time{Time: t} }
}

// arrived is the destination's pod; marked, it bears the migration's id.
func arrived(mark bool, change ...func(*corev1.Pod)) *corev1.Pod {
	p := podOn("b", change...)
	p.Name, p.UID = "cache-x", "destination"
	if mark {
		p.Annotations = map[string]string{v1alpha1.AnnotationMigration: "pm-u"}
	}
	return p
}

func running(p *corev1.Pod) {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

func TestWhatIsLeftOfALostNodeFollowsFromWhatIsKnown(t *testing.T) {
	now := time.Now()
	done := committedAt(now.Add(-time.Hour))
	waiting := func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c"}} }
	failed := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	agreed := func(at time.Time) func(*v1alpha1.PodMigration) {
		return func(m *v1alpha1.PodMigration) {
			m.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAgreed, Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(at)}}
		}
	}
	long := agreed(now.Add(-time.Hour))
	takenBack := func(m *v1alpha1.PodMigration) {
		long(m)
		m.Status.Conditions[0].Status = metav1.ConditionFalse
	}
	sibling := func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d"}) }
	for _, c := range []struct {
		name     string
		m        *v1alpha1.PodMigration
		l        loss
		let      bool
		phase    v1alpha1.Phase
		contains string
	}{
		{"before the commit", taken(v1alpha1.PhaseMigrating), loss{}, false, v1alpha1.PhaseFailed, "node a is gone from the cluster, and pod cache with it: nothing was committed"},
		{"before the commit, the destination's pod waits", taken(v1alpha1.PhaseMigrating), loss{arrival: arrived(true, waiting)}, false, v1alpha1.PhaseFailed, "nothing was committed"},
		{"agreed to, the destination's pod waits", taken(v1alpha1.PhaseMigrating, long), loss{arrival: arrived(true, waiting)}, false, v1alpha1.PhaseMigrating, "godwitctl resolve"},
		{"agreed to, the pod runs", taken(v1alpha1.PhaseMigrating, long), loss{arrival: arrived(true, running)}, false, v1alpha1.PhaseSucceeded, "pod cache-x runs on node b"},
		{"agreed to, there is no pod yet", taken(v1alpha1.PhaseMigrating, agreed(now)), loss{}, false, v1alpha1.PhaseMigrating, "still to be made"},
		{"agreed to, there is no pod", taken(v1alpha1.PhaseMigrating, long), loss{}, false, v1alpha1.PhaseFailed, "the pod is not on node b"},
		{"agreed to, both are gone", taken(v1alpha1.PhaseMigrating, long), loss{destination: true}, false, v1alpha1.PhaseFailed, "nodes a and b are gone"},
		{"agreed to, and the destination has dropped it", taken(v1alpha1.PhaseMigrating, takenBack), loss{arrival: arrived(true, waiting)}, false, v1alpha1.PhaseFailed, "nothing was committed"},
		{"failed, the destination's pod is still there", taken(v1alpha1.PhaseFailed), loss{arrival: arrived(true, waiting)}, false, v1alpha1.PhaseFailed, "before"},
		{"failed, the destination is gone too", taken(v1alpha1.PhaseFailed), loss{arrival: arrived(true, waiting), destination: true}, true, "", ""},
		{"failed", taken(v1alpha1.PhaseFailed), loss{}, true, "", ""},
		{"cancelled", taken(v1alpha1.PhaseCancelled), loss{}, true, "", ""},
		{"succeeded, the pod is still marked", taken(v1alpha1.PhaseSucceeded), loss{arrival: arrived(true, running)}, false, v1alpha1.PhaseSucceeded, "before"},
		{"succeeded", taken(v1alpha1.PhaseSucceeded), loss{arrival: arrived(false, running)}, true, "", ""},
		{"committed, the pod runs", taken(v1alpha1.PhaseMigrationComplete, done), loss{arrival: arrived(true, running)}, false, v1alpha1.PhaseSucceeded, "pod cache-x runs on node b"},
		{"committed, the pod has run and is started again", taken(v1alpha1.PhaseMigrationComplete, done), loss{arrival: arrived(false, waiting)}, false, v1alpha1.PhaseSucceeded, "pod cache-x runs on node b"},
		{"committed, the pod's last container waits", taken(v1alpha1.PhaseMigrationComplete, done), loss{arrival: arrived(true, running, sibling)}, false, v1alpha1.PhaseMigrationComplete, "godwitctl resolve"},
		{"committed, the pod waits", taken(v1alpha1.PhaseMigrationComplete, done), loss{arrival: arrived(true, waiting)}, false, v1alpha1.PhaseMigrationComplete, "godwitctl resolve"},
		{"committed, the pod has ended", taken(v1alpha1.PhaseMigrationComplete, done), loss{arrival: arrived(true, failed)}, false, v1alpha1.PhaseFailed, "has ended before it ran"},
		{"committed, there is no pod yet", taken(v1alpha1.PhaseMigrationComplete, committedAt(now)), loss{}, false, v1alpha1.PhaseMigrationComplete, "still to be made"},
		{"committed, there is no pod", taken(v1alpha1.PhaseMigrationComplete, done), loss{}, false, v1alpha1.PhaseFailed, "the pod is not on node b"},
		{"committed, both are gone", taken(v1alpha1.PhaseMigrationComplete, done), loss{arrival: arrived(true, waiting), destination: true}, false, v1alpha1.PhaseFailed, "nodes a and b are gone"},
	} {
		c.l.now = now
		v, let := judgeLost(c.m, c.l)
		if let != c.let || !let && (v.phase != c.phase || !strings.Contains(v.message, c.contains)) {
			t.Errorf("%s: let go %v, %+v; want %v, %s: %q", c.name, let, v, c.let, c.phase, c.contains)
		}
	}
}

// lose looks until the node is taken to be lost, and then once more.
func (s *scene) lose() *v1alpha1.PodMigration {
	s.t.Helper()
	before, again := s.look()
	if again != lostAfter {
		s.t.Fatalf("a node that was just missed is looked for again in %v", again)
	}
	s.time = s.time.Add(lostAfter - time.Second)
	if m, _ := s.look(); m.ResourceVersion != before.ResourceVersion {
		s.t.Fatalf("it is taken to be lost too early: %+v", m.Status)
	}
	s.time = s.time.Add(time.Second)
	m, _ := s.look()
	return m
}

func TestAMigrationOfALostNodeFailsAndIsLetGo(t *testing.T) {
	s := newScene(t, taken(v1alpha1.PhaseMigrating, func(m *v1alpha1.PodMigration) { m.Status.Claim = v1alpha1.ClaimOpen }), podOn("a"))
	m := s.lose()
	if m.Status.Phase != v1alpha1.PhaseFailed || m.Status.CompletionTime == nil || m.Status.Claim != "" || len(m.Finalizers) != 1 {
		t.Fatalf("%v, %+v", m.Finalizers, m.Status)
	}
	m, again := s.look()
	if len(m.Finalizers) != 0 || !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionCleaned) || again != 0 {
		t.Errorf("%v, %+v, again in %v", m.Finalizers, m.Status, again)
	}
	if meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionTakenUp) != nil {
		t.Error("it was taken up, and its condition says otherwise")
	}
}

func TestADeletedMigrationOfALostNodeGoes(t *testing.T) {
	s := newScene(t, taken(v1alpha1.PhasePending), podOn("a"))
	if err := s.Delete(t.Context(), migration()); err != nil {
		t.Fatal(err)
	}
	s.lose()
	if m, _ := s.look(); m != nil {
		t.Errorf("it is still there: %+v", m)
	}
}

func TestAMigrationWaitsForThePodThatItsDestinationHolds(t *testing.T) {
	s := newScene(t, taken(v1alpha1.PhaseMigrationComplete), arrived(true), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}})
	if m := s.lose(); m.Status.Phase != v1alpha1.PhaseMigrationComplete || !strings.Contains(m.Status.Message, "godwitctl resolve") {
		t.Fatalf("%+v", m.Status)
	}
	pod := new(corev1.Pod)
	if err := s.WithWatch.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "cache-x"}, pod); err != nil {
		t.Fatal(err)
	}
	running(pod)
	if err := s.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if m, _ := s.look(); m.Status.Phase != v1alpha1.PhaseSucceeded || len(m.Finalizers) != 1 {
		t.Fatalf("%v, %+v", m.Finalizers, m.Status)
	}
	if m, again := s.look(); len(m.Finalizers) != 1 || again != takenAgain {
		t.Errorf("let go while the pod is marked: again in %v", again)
	}
	pod.Annotations = nil
	if err := s.Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if m, _ := s.look(); len(m.Finalizers) != 0 {
		t.Errorf("%v, %+v", m.Finalizers, m.Status)
	}
}

func TestANodeThatComesBackIsNotLost(t *testing.T) {
	s := newScene(t, taken(v1alpha1.PhaseMigrating))
	s.look()
	s.time = s.time.Add(lostAfter / 2)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if err := s.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	s.look()
	if err := s.Delete(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	s.time = s.time.Add(lostAfter)
	if m, again := s.look(); m.Status.Phase != v1alpha1.PhaseMigrating || again != lostAfter {
		t.Errorf("it is %s, and looked at again in %v", m.Status.Phase, again)
	}
}
