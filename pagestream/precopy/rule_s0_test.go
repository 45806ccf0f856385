package precopy

import (
	"errors"
	"math"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

// By hand, MB/s: round 1 predicts nothing. Of round 2 100 is predicted, an error of 20;
// the mean (1*0+2*20)/3 is 13.33, so of round 3 66.67 is, an error of -23.33; the mean
// (0+40-70)/6 is -5, so of round 4 95 is.
func TestDirtyRateIsPredictedAsByHand(t *testing.T) {
	for _, c := range []struct {
		actual                    []float64
		initial, correction, rate float64
	}{
		{nil, 0, 0, 0},
		{[]float64{100}, 100, 0, 100},
		{[]float64{100, 80}, 80, 40.0 / 3, 80 - 40.0/3},
		{[]float64{100, 80, 90}, 90, -5, 95},
		{[]float64{50, 50, 50, 50}, 50, 0, 50},
		{[]float64{100, 0}, 0, 200.0 / 3, 0}, // never below 0
	} {
		initial, correction, rate := predictDirtyRate(c.actual)
		if math.Abs(initial-c.initial) > 1e-9 || math.Abs(correction-c.correction) > 1e-9 || math.Abs(rate-c.rate) > 1e-9 {
			t.Errorf("%v: %v, %v, %v, want %v, %v, %v", c.actual, initial, correction, rate, c.initial, c.correction, c.rate)
		}
	}
}

// byHand is a history whose rounds became dirty at 100, 80 and 90 MiB/s.
func byHand() []RoundStat {
	history := []RoundStat{{Pages: 1000 * mib / pagestream.PageSize, Copy: 10 * time.Second}}
	for i, r := range []struct {
		dirty        float64
		window, took time.Duration
	}{{1000, 10 * time.Second, 5 * time.Second}, {400, 5 * time.Second, 2 * time.Second}, {180, 2 * time.Second, time.Second}} {
		history = append(history, RoundStat{
			Number: i + 1, Pages: uint64(r.dirty * mib / pagestream.PageSize), Window: r.window, Copy: r.took,
		})
	}
	return history
}

func TestDecideByS0ByHand(t *testing.T) {
	in := s0Inputs(byHand(), Policy{FirstRounds: 2, DirtyLimit: 7 * mib, MaxTime: time.Minute})
	want := S0Inputs{
		M: 3, N: 2, Dirty: 180 * mib, Preset: 7 * mib, Initial: 90 * mib, Correction: -5 * mib, Rate: 95 * mib,
		Took: time.Second, Predicted: 95 * mib, Elapsed: 18 * time.Second, MaxTime: time.Minute,
	}
	if math.Abs(in.Correction-want.Correction) > 1 || math.Abs(in.Rate-want.Rate) > 1 || in.Predicted/1024 != want.Predicted/1024 {
		t.Errorf("predicted %+v, want %+v", in, want)
	}
	in.Correction, in.Rate, in.Predicted = want.Correction, want.Rate, want.Predicted
	if in != want {
		t.Errorf("%+v, want %+v", in, want)
	}
	base := want
	for _, c := range []struct {
		name   string
		change func(*S0Inputs)
		want   Reason
	}{
		{"less is predicted than was dirty", func(*S0Inputs) {}, GoOn},
		{"as much is predicted", func(s *S0Inputs) { s.Predicted = s.Dirty }, GoOn},
		{"more is predicted", func(s *S0Inputs) { s.Predicted = s.Dirty + 1 }, NoProgress},
		{"not before N rounds", func(s *S0Inputs) { s.M, s.Predicted = 1, s.Dirty+1 }, GoOn},
		{"nor is the amount", func(s *S0Inputs) { s.M, s.Dirty = 1, 0 }, GoOn},
		{"nor the time", func(s *S0Inputs) { s.M, s.Elapsed = 1, s.MaxTime+1 }, GoOn},
		{"below the preset amount after N rounds", func(s *S0Inputs) { s.M, s.Dirty, s.Predicted = 2, s.Preset-1, 0 }, BelowLimit},
		{"at the preset amount after N rounds", func(s *S0Inputs) { s.M, s.Dirty, s.Predicted = 2, s.Preset, 0 }, GoOn},
		{"the amount is asked after N rounds only", func(s *S0Inputs) { s.Dirty, s.Predicted = s.Preset-1, 0 }, GoOn},
		{"all the time", func(s *S0Inputs) { s.Elapsed = s.MaxTime }, GoOn},
		{"more than the time", func(s *S0Inputs) { s.Elapsed = s.MaxTime + 1 }, TimeSpent},
	} {
		in := base
		c.change(&in)
		if got := decideByS0(in); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTheRuleThatIsAskedForDecides(t *testing.T) {
	history := byHand()[:2]
	s0 := Decide(history, Policy{Rule: S0, FirstRounds: 5, DirtyLimit: 2000 * mib})
	if s0.Stop || s0.Rule != S0 || s0.S0.N != 5 {
		t.Errorf("%+v", s0)
	}
	if d := Decide(history, Policy{DirtyLimit: 2000 * mib}); d.Reason != BelowLimit || d.Rule != Default || d.S0 != (S0Inputs{}) {
		t.Errorf("%+v", d)
	}
	for name, want := range map[string]Rule{"": Default, "default": Default, "DEFAULT": Default, "s0": S0, "S0": S0} {
		if got, err := ParseRule(name); got != want || err != nil {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	if _, err := ParseRule("S1"); !errors.Is(err, ErrUnknownRule) {
		t.Errorf("S1: %v", err)
	}
}
