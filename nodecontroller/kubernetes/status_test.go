package kubernetes

import (
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

func TestAStatusFollowsTheDaemonsEvents(t *testing.T) {
	s := &v1alpha1.PodMigrationStatus{
		Phase:          v1alpha1.PhasePending,
		DestinationPod: &v1alpha1.PodReference{Name: "cache-1"},
		Containers:     []v1alpha1.ContainerStatus{{Name: "redis"}},
	}
	event := func(p nodev1.Phase, kind string) *nodev1.Event {
		return &nodev1.Event{Phase: p, Kind: kind, Message: kind + "!", UnixNano: time.Now().UnixNano()}
	}
	feed := func(e *nodev1.Event, phase v1alpha1.Phase, container v1alpha1.ContainerState) {
		t.Helper()
		if err := apply(s, e, 3); err != nil {
			t.Fatal(err)
		}
		if s.Phase != phase || s.Containers[0].State != container {
			t.Errorf("after %s: %s, container %s", e.Kind, s.Phase, s.Containers[0].State)
		}
	}
	feed(event(nodev1.Phase_PHASE_PREPARING, "preparing"), v1alpha1.PhasePreparing, v1alpha1.ContainerRunning)
	feed(event(nodev1.Phase_PHASE_PREPARING, "prepared"), v1alpha1.PhasePreparing, v1alpha1.ContainerRunning)
	copying := event(nodev1.Phase_PHASE_MIGRATING, "progress")
	copying.Message = ""
	copying.Progress = &nodev1.Progress{MemoryBytes: 5, WireBytesSent: 4, Rate: 3, DirtyRate: 2, PredictedDowntimeUs: 180e3, ThrottleMilliCpu: 800, ThrottleOfMilliCpu: 2000,
		Compression: "zstd level 3: the link is the bottleneck"}
	for i := range uint32(80) {
		copying.Progress.Rounds = append(copying.Progress.Rounds, &nodev1.Round{Number: i, DirtyPages: 9, DurationUs: 1500})
	}
	feed(copying, v1alpha1.PhaseMigrating, v1alpha1.ContainerCopying)
	if s.Message != "prepared!" || s.MemoryBytes != 5 || s.BytesSent != 4 || s.Rate != 3 || s.DirtyRate != 2 || s.PredictedDowntime.Duration != 180*time.Millisecond || s.Throttle != "throttled to 40 % of 2 CPUs" {
		t.Errorf("progress: %+v", s)
	}
	if len(s.Rounds) != maxRounds || s.Rounds[0].Number != 0 || s.Rounds[maxRounds-1].Number != 79 || s.Rounds[0].Duration.Duration != 1500*time.Microsecond {
		t.Errorf("%d rounds: %+v", len(s.Rounds), s.Rounds)
	}
	frozen := event(nodev1.Phase_PHASE_MIGRATING, "freezing")
	frozen.Progress = &nodev1.Progress{Rounds: copying.Progress.Rounds}
	feed(frozen, v1alpha1.PhaseMigrating, v1alpha1.ContainerFrozen)
	if want := "zstd level 3: the link is the bottleneck"; s.Compression != want {
		t.Errorf("compression %q, want %q, also after progress that does not know", s.Compression, want)
	}
	if s.CommitTime != nil {
		t.Errorf("committed at %v, before it was", s.CommitTime)
	}
	s.Phase = v1alpha1.PhaseMigrationComplete // by an older version, before the event of it
	feed(event(nodev1.Phase_PHASE_MIGRATING, "cutover"), v1alpha1.PhaseMigrationComplete, v1alpha1.ContainerMoved)
	feed(event(nodev1.Phase_PHASE_MIGRATION_COMPLETE, "committed"), v1alpha1.PhaseMigrationComplete, v1alpha1.ContainerMoved)
	last := event(nodev1.Phase_PHASE_SUCCEEDED, "ended")
	last.Result = &nodev1.Result{
		Succeeded: true, Pod: "shop/cache", From: "a", Destination: &nodev1.Destination{Node: "b"}, Engine: "WriteProtect", TotalUs: 2e6,
		Downtime: &nodev1.Downtime{MeasuredUs: 120e3, Stages: []*nodev1.Stage{{Name: "prepare", BeginUs: -40e3, DurationUs: 40e3}, {Name: "freeze", DurationUs: 500}}}, FinalBytes: 6 << 20,
	}
	last.Destination = &nodev1.Destination{PodIp: "10.1.2.3"}
	feed(last, v1alpha1.PhaseSucceeded, v1alpha1.ContainerMoved)
	if s.Downtime.Duration != 120*time.Millisecond || s.Total.Duration != 2*time.Second || s.CompletionTime == nil || s.Engine != "WriteProtect" || s.DestinationPod.IP != "10.1.2.3" {
		t.Errorf("result: %+v", s)
	}
	if len(s.Stages) != 2 || s.Stages[0].Name != "prepare" || s.Stages[0].Begin.Duration != -40*time.Millisecond || s.Stages[1].Duration.Duration != 500*time.Microsecond {
		t.Errorf("stages: %+v", s.Stages)
	}
	if want := "pod cache moved from a to b in 2s, downtime 120ms, memory 6MiB, sent 0B"; s.Message != want || s.MemoryBytes != 6<<20 {
		t.Errorf("%q, memory %d bytes; want %q", s.Message, s.MemoryBytes, want)
	}
	for _, c := range []string{v1alpha1.ConditionPrepared, v1alpha1.ConditionCommitted} {
		if !meta.IsStatusConditionTrue(s.Conditions, c) {
			t.Errorf("condition %s: %+v", c, s.Conditions)
		}
	}
	before := s.DeepCopy()
	if err := apply(s, event(nodev1.Phase_PHASE_FAILED, "ended"), 3); !errors.Is(err, ErrIllegalMove) {
		t.Errorf("a success that fails: %v", err)
	}
	if s.Message != before.Message || s.Phase != before.Phase {
		t.Error("an illegal event changed the status")
	}
}

// An agreement ends with the commit, or with the word of who knows that there was none.
func TestTheEndOfAMigrationKeepsOrTakesBackWhatTheClusterAgreedTo(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []nodev1.Phase
		agreed bool // at the end
		commit bool
	}{
		{"broken off", []nodev1.Phase{nodev1.Phase_PHASE_MIGRATING, nodev1.Phase_PHASE_FAILED}, false, false},
		{"cancelled", []nodev1.Phase{nodev1.Phase_PHASE_CANCELLED}, false, false},
		{"left in doubt", []nodev1.Phase{nodev1.Phase_PHASE_MIGRATING}, true, false},
		{"committed", []nodev1.Phase{nodev1.Phase_PHASE_MIGRATION_COMPLETE}, true, true},
		{"moved", []nodev1.Phase{nodev1.Phase_PHASE_MIGRATION_COMPLETE, nodev1.Phase_PHASE_SUCCEEDED}, true, true},
		{"lost by the destination", []nodev1.Phase{nodev1.Phase_PHASE_MIGRATION_COMPLETE, nodev1.Phase_PHASE_FAILED}, true, true},
	} {
		m := claimed(agreed)
		for _, p := range c.events {
			if err := apply(&m.Status, &nodev1.Event{Phase: p, UnixNano: time.Now().UnixNano()}, 1); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		if (m.AgreedSince() != nil) != c.agreed || (m.Status.CommitTime != nil) != c.commit {
			t.Errorf("%s: agreed since %v, committed at %v", c.name, m.AgreedSince(), m.Status.CommitTime)
		}
	}
}

func TestARequestSaysWhatTheObjectAsks(t *testing.T) {
	limit, bandwidth := resource.MustParse("64Mi"), resource.MustParse("125M")
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{UID: "u"},
		Spec: v1alpha1.PodMigrationSpec{
			PodName: "cache", Mode: v1alpha1.ModeLive, Tracker: v1alpha1.TrackerAuto, Compression: v1alpha1.CompressionZstd,
			PreCopy: &v1alpha1.PreCopy{MaxRounds: 7, MaxDuration: &metav1.Duration{Duration: time.Minute}, DirtyLimit: &limit,
				Rule: v1alpha1.RuleS0, OnStall: v1alpha1.OnStallAbort, DowntimeLimit: &metav1.Duration{Duration: 200 * time.Millisecond}},
			Timeout: &metav1.Duration{Duration: time.Hour}, Bandwidth: &bandwidth,
		},
	}
	r := requestOf(m, "default/cache", "b")
	if r.Pod != "default/cache" || r.To != "b" || r.Mode != "live" || r.Tracker != "Auto" || r.Compression != "zstd" || r.MaxRounds != 7 ||
		r.MaxTimeMs != 60e3 || r.DirtyLimit != 64<<20 || r.TimeoutMs != 3600e3 || r.Bandwidth != 125e6 ||
		r.Rule != "S0" || r.OnStall != "Abort" || r.DowntimeLimitMs != 200 {
		t.Errorf("request %+v", r)
	}
	m.Spec = v1alpha1.PodMigrationSpec{Mode: v1alpha1.ModeCold, Tracker: v1alpha1.TrackerAuto}
	if r := requestOf(m, "p", "b"); r.Mode != "cold" || r.Tracker != "" {
		t.Errorf("cold: %+v", r)
	}
	if idOf(m) != "pm-u" {
		t.Errorf("id %q", idOf(m))
	}
}
