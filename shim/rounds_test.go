package shim

import (
	"errors"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/precopy"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func TestThePolicyIsThatOfTheRequest(t *testing.T) {
	got, err := policyOf(&shimv1.Policy{
		MaxRounds: 7, MaxTimeMs: 1500, DirtyLimit: 4096, Rule: "s0", DowntimeLimitMs: 200, FirstRounds: 2, OnStall: "abort",
		Standstill: &shimv1.Standstill{FreezeUs: 1000, DumpUs: 2000, RestoreUs: 3000},
	})
	want := precopy.Policy{
		Rule: precopy.S0, MaxRounds: 7, MaxTime: 1500 * time.Millisecond, DirtyLimit: 4096,
		DowntimeLimit: 200 * time.Millisecond, FirstRounds: 2, OnStall: precopy.Abort,
		Standstill: precopy.Standstill{Freeze: time.Millisecond, Dump: 2 * time.Millisecond, Restore: 3 * time.Millisecond},
	}
	if err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if got, err := policyOf(nil); err != nil || got != (precopy.Policy{Rule: precopy.Default, OnStall: precopy.StopAndCopy}) {
		t.Errorf("none: %+v, %v", got, err)
	}
	if _, err := policyOf(&shimv1.Policy{Rule: "S9"}); !errors.Is(err, precopy.ErrUnknownRule) {
		t.Error(err)
	}
	if _, err := policyOf(&shimv1.Policy{OnStall: "hope"}); !errors.Is(err, precopy.ErrUnknownOnStall) {
		t.Error(err)
	}
}

// Each input of a decision is in the progress.
func TestARoundSaysWhatWasDecidedByIt(t *testing.T) {
	page := uint64(4096)
	history := []precopy.RoundStat{
		{Pages: 1000, Copy: time.Second, Copied: precopy.CopyStats{Sent: 1000}},
		{Number: 1, Pages: 100, Window: time.Second, Copy: time.Second / 10, Copied: precopy.CopyStats{Sent: 100}},
		{Number: 2, Pages: 20, Window: time.Second / 10, Copy: time.Second / 10, Copied: precopy.CopyStats{Sent: 20}},
	}
	// Of round 2 the 100 pages a second of round 1 were predicted and 200 found: the error,
	// -100, weighs 2 of 3, so 266.7 pages a second are predicted.
	d := precopy.Decide(history, precopy.Policy{Rule: precopy.S0, FirstRounds: 1, DirtyLimit: 9 * page})
	round := &shimv1.Round{}
	noteDecision(round, d)
	if round.GetRateCorrection() != int64(200*page/3) || round.GetPredictedDirtyRate() != 800*page/3 ||
		round.GetPredictedDirtyBytes()/page != 26 || round.GetDirtyLimit() != 9*page || round.GetElapsedUs() != 1_200_000 ||
		round.GetPredictedLastBytes() != d.Forecast.Last || round.GetPredictedDowntimeUs() == 0 || !d.Stop {
		t.Errorf("%+v of %+v", round, d)
	}
}
