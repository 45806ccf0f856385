package admission

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

var settings = Options{PerNode: 2, Attempts: 3, Pause: 30 * time.Second, Keep: time.Hour}

// movable is a running pod on node a that asks to be moved.
func movable(change ...func(*corev1.Pod)) *corev1.Pod {
	class := v1alpha1.RuntimeClass
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "p", Labels: map[string]string{v1alpha1.LabelMigrateOnDrain: "true"}, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{RuntimeClassName: &class, NodeName: "a"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

// tried is a drain of movable that stands at the phase, since some time ago if it is over.
func tried(attempt int, phase v1alpha1.Phase, ago time.Duration, change ...func(*v1alpha1.PodMigration)) v1alpha1.PodMigration {
	m := newDrain(movable(), attempt)
	m.Status.Phase = phase
	m.Status.Message = "no room on b"
	if phase.Over() {
		m.Status.CompletionTime = &metav1.Time{Time: start.Add(-ago)}
	}
	for _, f := range change {
		f(m)
	}
	return *m
}

func TestWhichPodsAnEvictionMoves(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   bool
	}{
		"labelled":      {func(*corev1.Pod) {}, true},
		"without label": {func(p *corev1.Pod) { p.Labels = nil }, false},
		"another value": {func(p *corev1.Pod) { p.Labels[v1alpha1.LabelMigrateOnDrain] = "false" }, false},
		"no class":      {func(p *corev1.Pod) { p.Spec.RuntimeClassName = nil }, false},
		"another class": {func(p *corev1.Pod) { *p.Spec.RuntimeClassName = "runc" }, false},
		"not scheduled": {func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = "", corev1.PodPending }, false},
		"starting":      {func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, false},
		"ended":         {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, false},
		"going":         {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: start} }, false},
		"starting, parked": {func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Annotations[v1alpha1.AnnotationMigration] = "id"
		}, true},
		"claimed, not scheduled": {func(p *corev1.Pod) {
			p.Spec.NodeName, p.Status.Phase = "", corev1.PodPending
			p.Annotations[v1alpha1.AnnotationMigration] = "id"
		}, true},
		"resumed, not known to run": {func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Annotations[v1alpha1.AnnotationMovedBy] = "m"
		}, true},
	} {
		if got := wantsMove(movable(c.change)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAnEvictionIsJudgedByThePodsMigrations(t *testing.T) {
	const (
		failed    = v1alpha1.PhaseFailed
		cancelled = v1alpha1.PhaseCancelled
		long      = 10 * time.Minute
	)
	evict := func(p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationDrainOnFailure] = "Evict" }
	arriving := func(p *corev1.Pod) {
		p.UID, p.Status.Phase = "q", corev1.PodPending
		p.Annotations[v1alpha1.AnnotationMigration], p.Annotations[v1alpha1.AnnotationMovedBy] = "id", "drain-p-1"
	}
	unmarked := func(p *corev1.Pod) { arriving(p); delete(p.Annotations, v1alpha1.AnnotationMigration) }
	unmarkedRuns := func(p *corev1.Pod) { unmarked(p); p.Status.Phase = corev1.PodRunning }
	brought := func(m *v1alpha1.PodMigration) {
		m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web", UID: "q"}
	}
	users := func(m *v1alpha1.PodMigration) { m.Name, m.Labels = "mine", nil }
	source := func(uid types.UID) func(*v1alpha1.PodMigration) {
		return func(m *v1alpha1.PodMigration) { m.Status.SourcePod = &v1alpha1.PodReference{Name: "web", UID: uid} }
	}
	drop := func(m *v1alpha1.PodMigration) { no := false; m.Spec.KeepSourceOnFailure = &no }
	for name, c := range map[string]struct {
		pod     *corev1.Pod
		of      []v1alpha1.PodMigration
		want    action
		attempt int
		says    string
	}{
		"first":                       {movable(), nil, move, 1, ""},
		"asked for":                   {movable(), []v1alpha1.PodMigration{tried(1, "", 0)}, wait, 0, "drain-p-1: Pending"},
		"under way":                   {movable(), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseMigrating, 0)}, wait, 0, "Migrating"},
		"committed":                   {movable(), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseMigrationComplete, 0)}, wait, 0, ""},
		"moved, not gone":             {movable(), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseSucceeded, 0)}, wait, 0, "about to be removed"},
		"under way by a user's":       {movable(), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseMigrating, 0, users, source("p"))}, wait, 0, "mine"},
		"asked for by a user":         {movable(), []v1alpha1.PodMigration{tried(1, "", 0, users)}, wait, 0, "mine"},
		"a user's of a former pod":    {movable(), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseMigrating, 0, users, source("other"))}, move, 1, ""},
		"a user's that ended":         {movable(), []v1alpha1.PodMigration{tried(1, failed, 0, users, source("p"))}, move, 1, ""},
		"arriving":                    {movable(arriving), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseMigrating, 0)}, wait, 0, "drain-p-1"},
		"resumed, its mark is gone":   {movable(unmarked), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseMigrationComplete, 0)}, wait, 0, "drain-p-1"},
		"runs, its mark is gone":      {movable(unmarkedRuns), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseMigrationComplete, 0)}, wait, 0, "drain-p-1"},
		"come, kubelet has not said":  {movable(unmarked), []v1alpha1.PodMigration{tried(1, v1alpha1.PhaseSucceeded, 0, brought)}, wait, 0, "has not said so yet"},
		"unmarked, in vain":           {movable(unmarked), []v1alpha1.PodMigration{tried(1, failed, 0)}, pass, 0, ""},
		"arriving in vain":            {movable(arriving), []v1alpha1.PodMigration{tried(1, failed, 0)}, pass, 0, ""},
		"just failed":                 {movable(), []v1alpha1.PodMigration{tried(1, failed, time.Second)}, wait, 0, "attempt 2 of 3 is in 29s"},
		"failed, after the pause":     {movable(), []v1alpha1.PodMigration{tried(1, failed, 30*time.Second)}, move, 2, ""},
		"cancelled counts too":        {movable(), []v1alpha1.PodMigration{tried(1, cancelled, time.Second)}, wait, 0, "Cancelled"},
		"the pause grows":             {movable(), []v1alpha1.PodMigration{tried(2, failed, 40*time.Second), tried(1, failed, long)}, wait, 0, "attempt 3 of 3 is in 20s"},
		"the last":                    {movable(), []v1alpha1.PodMigration{tried(2, failed, time.Minute), tried(1, failed, long)}, move, 3, ""},
		"no more":                     {movable(), []v1alpha1.PodMigration{tried(1, failed, 3*long), tried(2, failed, 2*long), tried(3, failed, long)}, wait, 0, "no room on b"},
		"no more, evicted":            {movable(evict), []v1alpha1.PodMigration{tried(1, failed, 3*long), tried(2, failed, 2*long), tried(3, failed, long)}, pass, 0, "no room on b"},
		"evicted after the last only": {movable(evict), []v1alpha1.PodMigration{tried(1, failed, long)}, move, 2, ""},
		"not to be kept":              {movable(), []v1alpha1.PodMigration{tried(1, failed, 0, users, source("p"), drop)}, pass, 0, "does not keep"},
		"not to be kept, cancelled":   {movable(), []v1alpha1.PodMigration{tried(1, cancelled, 0, users, source("p"), drop)}, move, 1, ""},
		"a number that is free":       {movable(), []v1alpha1.PodMigration{tried(2, failed, long)}, move, 3, ""},
	} {
		got := judge(c.pod, c.of, nil, start, settings)
		if got.action != c.want || got.attempt != c.attempt || !strings.Contains(got.why, c.says) {
			t.Errorf("%s: %+v, want action %d, attempt %d, %q", name, got, c.want, c.attempt, c.says)
		}
	}
}

func TestOnlySoManyOfANodeMoveAtATime(t *testing.T) {
	other := func(name, node string, phase v1alpha1.Phase) v1alpha1.PodMigration {
		m := newDrain(movable(func(p *corev1.Pod) { p.Name, p.Spec.NodeName = name, node; p.UID = "u" }), 1)
		m.Status.Phase = phase
		return *m
	}
	taken := other("x", "", v1alpha1.PhasePreparing)
	taken.Status.SourceNode = "a"
	for name, c := range map[string]struct {
		drains []v1alpha1.PodMigration
		want   action
	}{
		"one":             {[]v1alpha1.PodMigration{other("x", "a", "")}, move},
		"two":             {[]v1alpha1.PodMigration{other("x", "a", ""), other("y", "a", v1alpha1.PhaseMigrating)}, wait},
		"two, one taken":  {[]v1alpha1.PodMigration{taken, other("y", "a", "")}, wait},
		"one of two over": {[]v1alpha1.PodMigration{other("x", "a", v1alpha1.PhaseSucceeded), other("y", "a", "")}, move},
		"of another node": {[]v1alpha1.PodMigration{other("x", "b", ""), other("y", "b", "")}, move},
	} {
		if got := judge(movable(), nil, c.drains, start, settings); got.action != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAPodsDrainsStayAsLongAsTheLast(t *testing.T) {
	const failed = v1alpha1.PhaseFailed
	for name, c := range map[string]struct {
		drains []v1alpha1.PodMigration
		want   time.Duration
	}{
		"old":                  {[]v1alpha1.PodMigration{tried(1, failed, time.Hour)}, 0},
		"new":                  {[]v1alpha1.PodMigration{tried(1, failed, time.Minute)}, 59 * time.Minute},
		"old with a new":       {[]v1alpha1.PodMigration{tried(1, failed, 2*time.Hour), tried(2, failed, time.Minute)}, 59 * time.Minute},
		"old with one at work": {[]v1alpha1.PodMigration{tried(1, failed, 2*time.Hour), tried(2, "", 0)}, time.Hour},
	} {
		if got := remaining(c.drains, start, time.Hour); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestSettingsMustBeAboveZero(t *testing.T) {
	if err := settings.check(); err != nil {
		t.Error(err)
	}
	for _, change := range []func(*Options){
		func(o *Options) { o.PerNode = 0 }, func(o *Options) { o.Attempts = 0 }, func(o *Options) { o.Pause = 0 }, func(o *Options) { o.Keep = 0 },
	} {
		o := settings
		change(&o)
		if o.check() == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}
