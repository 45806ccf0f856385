package events

import (
	"testing"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

func TestWhatHappensIsToldInWordsForItsReader(t *testing.T) {
	to := &nodev1.Destination{Node: "b"}
	for _, c := range []struct {
		name string
		e    *nodev1.Event
		want Event
	}{
		{"a step", &nodev1.Event{Kind: "tracking", Message: "engine WriteProtect: it is best"}, Event{Normal, "Migrating", "engine WriteProtect: it is best"}},
		{"a note", &nodev1.Event{Kind: "note", Message: "breaking off"}, Event{Warning, "Trouble", "breaking off"}},
		{"progress", &nodev1.Event{Kind: "progress"}, Event{}},
		{"an image", &nodev1.Event{Kind: "image", Message: "sent"}, Event{}},
		{
			"success", &nodev1.Event{Kind: "ended", Phase: nodev1.Phase_PHASE_SUCCEEDED, Message: "done", Result: &nodev1.Result{
				Succeeded: true, Pod: "shop/cache", From: "a", Destination: to, TotalUs: 2_345_678, Downtime: &nodev1.Downtime{MeasuredUs: 228_400},
				Totals: &nodev1.Progress{
					MemoryBytes: 1 << 30, WireBytesSent: 700 << 20, PredictedDowntimeUs: 200_100, ThrottleMilliCpu: 400, ThrottleOfMilliCpu: 1000,
				}, FinalBytes: 9 << 20,
			}},
			Event{Normal, "Succeeded", "pod cache moved from a to b in 2.3s, downtime 228ms (predicted 200ms), throttled to 40 % of 1 CPU, memory 1GiB, sent 700MiB"},
		},
		{
			"success of one that was frozen first", &nodev1.Event{Kind: "ended", Phase: nodev1.Phase_PHASE_SUCCEEDED, Result: &nodev1.Result{
				Succeeded: true, Pod: "shop/cache", From: "a", Destination: to, TotalUs: 900_000, Downtime: &nodev1.Downtime{MeasuredUs: 500_000},
				Totals: &nodev1.Progress{WireBytesSent: 40 << 20}, FinalBytes: 90 << 20,
			}},
			Event{Normal, "Succeeded", "pod cache moved from a to b in 900ms, downtime 500ms, memory 90MiB, sent 40MiB"},
		},
		{
			"success of one that an earlier daemon began", &nodev1.Event{Kind: "ended", Phase: nodev1.Phase_PHASE_SUCCEEDED, Result: &nodev1.Result{
				Succeeded: true, Pod: "shop/cache", From: "a", Destination: to, TotalUs: 900_000,
			}},
			Event{Normal, "Succeeded", "pod cache moved from a to b in 900ms"},
		},
		{
			"failure", &nodev1.Event{Kind: "ended", Phase: nodev1.Phase_PHASE_FAILED, Result: &nodev1.Result{From: "a", Error: "no room"}},
			Event{Warning, "Failed", "the pod runs on a: no room"},
		},
		{
			"lost", &nodev1.Event{Kind: "ended", Phase: nodev1.Phase_PHASE_FAILED, Result: &nodev1.Result{From: "a", Error: "the destination lost the pod", Lost: true}},
			Event{Warning, "Lost", "the destination lost the pod"},
		},
		{
			"cancelled", &nodev1.Event{Kind: "ended", Phase: nodev1.Phase_PHASE_CANCELLED, Result: &nodev1.Result{From: "a", Error: "cancelled"}},
			Event{Normal, "Cancelled", "the pod runs on a: cancelled"},
		},
		{
			"committed, and then trouble", &nodev1.Event{Kind: "ended", Phase: nodev1.Phase_PHASE_MIGRATION_COMPLETE, Result: &nodev1.Result{From: "a", Destination: to, Error: "sandbox"}},
			Event{Warning, "Unfinished", "the pod is b's, and not all of it is cleared away: sandbox"},
		},
	} {
		got, told := Of(c.e)
		if told != (c.want != Event{}) || told && got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, told, c.want)
		}
	}
}

func TestMemoryIsWhatThePodHadHoweverItMoved(t *testing.T) {
	for name, c := range map[string]struct {
		result *nodev1.Result
		want   uint64
	}{
		"live":      {&nodev1.Result{Totals: &nodev1.Progress{MemoryBytes: 1 << 20}, FinalBytes: 4096, LeftPages: 3}, 1 << 20},
		"cold":      {&nodev1.Result{FinalBytes: 8192}, 8192},
		"post-copy": {&nodev1.Result{FinalBytes: 4096, LeftPages: 2}, 3 * 4096},
	} {
		if got := Memory(c.result); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}
