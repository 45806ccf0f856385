package main

import (
	"encoding/json"
	"math"
	"testing"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/load"
)

// rounds are rounds that sent so many bytes each.
func rounds(sent ...uint64) []move.Round {
	var all []move.Round
	for _, s := range sent {
		all = append(all, move.Round{WireBytes: s})
	}
	return all
}

func TestWhatWasSentIsComparedWithWhatAWitnessSaw(t *testing.T) {
	moves := []moved{
		{Way: softDirty, Rounds: rounds(1<<30, 1<<30)}, // nobody watched it
		{Way: writeProtect, Rounds: rounds(1<<30, 1<<30), Pages: []uint64{1, 1}},
		{Way: softDirty, Rounds: rounds(100*4096, 12*4096), Pages: []uint64{100, 10}},
		{Way: softDirty, Rounds: rounds(100*4096, 8*4096), Pages: []uint64{100, 10}},
	}
	all, later := sentPerWritten(moves, softDirty)
	if all != 1 || later != 1 {
		t.Errorf("in all rounds %v times, after the first %v times, want 1 and 1", all, later)
	}
	if all, later = sentPerWritten(moves[2:3], softDirty); math.Abs(all-112.0/110) > 1e-9 || later != 1.2 {
		t.Errorf("in all rounds %v times, after the first %v times, want 1.018 and 1.2", all, later)
	}
}

func TestAReportJudgesTheMediansOfTimedMoves(t *testing.T) {
	b := &bench{}
	for _, d := range []float64{900, 1000, 5000} {
		b.moves = append(b.moves,
			moved{Way: runcByHand, Downtime: d},
			moved{Way: writeProtect, Downtime: d / 4, Stood: 1},
			moved{Way: softDirty, Downtime: d * 0.6, Stood: 100})
	}
	b.moves = append(b.moves,
		moved{Way: writeProtect, Downtime: 1e6, Stood: 1e6, Pages: []uint64{10, 10}, Rounds: rounds(40960, 40960)},
		moved{Way: softDirty, Downtime: 1e6, Pages: []uint64{10, 10}, Rounds: rounds(40960, 50000), Verdict: load.Verdict{Lost: 1}})
	r := b.report()
	missed := map[string]bool{}
	for _, f := range r.Figures {
		missed[f.Name] = !f.Kept()
	}
	for name, want := range map[string]bool{
		"write-protect: sent in the rounds / pages to be sent":      false,
		"write-protect: the same without the first copy":            false,
		"soft-dirty: sent in the rounds / pages to be sent":         true,
		"soft-dirty: the same without the first copy":               true,
		"stood still before the freeze, write-protect / soft-dirty": false,
		"downtime, write-protect / runc by hand":                    false,
		"downtime, soft-dirty / runc by hand":                       true,
		"lost writes and wrong values":                              true,
	} {
		if got, ok := missed[name]; !ok || got != want {
			t.Errorf("%s: missed is %v (there: %v), want %v", name, got, ok, want)
		}
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestAnObserverHearsOfEachRoundOnceAlsoWhenEventsAreSkipped(t *testing.T) {
	o := &observer{rounds: 3, begun: make(chan int, 3)}
	for _, e := range []move.Event{
		{Kind: "step"},
		{Progress: &move.Progress{Round: 0}}, // nothing was found yet
		{Progress: &move.Progress{Round: 0, MemoryBytes: 1}},
		{Progress: &move.Progress{Round: 0, MemoryBytes: 1}},
		{Progress: &move.Progress{Round: 2, MemoryBytes: 1}}, // 1 was skipped
		{Progress: &move.Progress{Round: 3, MemoryBytes: 1}}, // not one of those that are watched
	} {
		o.hear(e)
	}
	close(o.begun)
	want := 0
	for n := range o.begun {
		if n != want {
			t.Errorf("round %d was heard of, want %d", n, want)
		}
		want++
	}
	if want != 3 {
		t.Errorf("%d rounds were heard of, want 3", want)
	}
}
