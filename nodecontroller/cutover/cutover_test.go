package cutover

import (
	"testing"
	"time"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func TestStagesLieOnOneTimeLine(t *testing.T) {
	frozen := time.Unix(1000, 0)
	at := func(ms int) time.Time { return frozen.Add(time.Duration(ms) * time.Millisecond) }
	times := Times{Ahead: at(-200), CutOver: at(-80), Restore: at(62), Held: at(101), Decided: at(104), Resumed: at(130)}
	cut := &shimv1.CutOverResponse{
		FrozenUnixNano: frozen.UnixNano(), FreezeUs: 1000, CompareUs: 8000, DumpUs: 40000, FilesUs: 50000, PagesUs: 55000, TotalUs: 60000,
	}
	want := map[Stage][2]int64{ // when it began and how long it took, milliseconds
		Ahead: {-200, 120}, Prepare: {-80, 80}, Freeze: {0, 1}, Compare: {1, 7}, Dump: {8, 32}, Images: {40, 10}, Pages: {8, 47}, Flush: {55, 5},
		Seal: {62, 2}, Restore: {64, 35}, Decide: {101, 3}, Resume: {104, 26},
	}
	got := Stages(times, cut, &peerv1.RestoreResponse{SealUs: 2000, RestoreUs: 35000})
	if len(got) != len(All()) {
		t.Fatalf("%d stages, want %d", len(got), len(All()))
	}
	for i, s := range got {
		name := Stage(s.Name)
		if name != All()[i] {
			t.Errorf("stage %d is %s, want %s", i, name, All()[i])
		}
		if w := want[name]; s.BeginUs != w[0]*1000 || int64(s.DurationUs) != w[1]*1000 {
			t.Errorf("%s began at %d us and took %d, want %d and %d ms", name, s.BeginUs, s.DurationUs, w[0], w[1])
		}
	}
}

func TestWhatWasNotDoneIsNoStage(t *testing.T) {
	now := time.Now()
	for _, s := range Stages(Times{CutOver: now, Restore: now, Held: now, Decided: now, Resumed: now},
		&shimv1.CutOverResponse{FrozenUnixNano: now.UnixNano()}, &peerv1.RestoreResponse{}) {
		if s.Name == string(Ahead) || s.Name == string(Compare) {
			t.Errorf("stage %s, which was not there, took %d us", s.Name, s.DurationUs)
		}
	}
}
