package precopy

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

func TestNextLimits(t *testing.T) {
	for _, c := range []struct {
		name        string
		dirty, link float64
		cpus        []CPU
		want        []float64
		lower       bool
	}{
		{"seven tenths of what is used", 100, 100, []CPU{{Used: 1, Before: 1}}, []float64{0.5}, true},
		{"no more than that at once", 1000, 100, []CPU{{Used: 1, Before: 1}}, []float64{0.4}, true},
		{"and no less", 100, 1000, []CPU{{Used: 1, Before: 1}}, []float64{0.7}, true},
		{"rates are unknown", 0, 0, []CPU{{Used: 1, Before: 1}}, []float64{0.7}, true},
		{"a measurement above the limit", 1000, 100, []CPU{{Used: 0.55, Limit: 0.5, Before: 1}}, []float64{0.2}, true},
		{"less is used than allowed", 1000, 100, []CPU{{Used: 0.5, Limit: 2, Before: 1}}, []float64{0.2}, true},
		{"a tenth of a core is the floor", 1000, 100, []CPU{{Used: 0.15, Limit: 0.15, Before: 2}}, []float64{0.1}, true},
		{"at the floor", 1000, 100, []CPU{{Used: 0.1, Limit: 0.1, Before: 2}}, []float64{0}, false},
		{"the floor of what never used much", 1000, 100, []CPU{{Used: 0.05, Before: 0.05}}, []float64{0.02}, true},
		{"a hundredth of a core is the least", 1000, 100, []CPU{{Used: 0.012, Before: 0.02}}, []float64{0.01}, true},
		{"what is idle is left alone", 1000, 100, []CPU{{Used: 1, Before: 1}, {Used: 0.001, Before: 0.001}}, []float64{0.4, 0}, true},
		{"what somebody else has set is left alone", 1000, 100, []CPU{{Used: 1, Before: 1, Foreign: true}}, []float64{0}, false},
		{"no part", 1000, 100, nil, nil, false},
	} {
		got, lower := NextLimits(c.dirty, c.link, c.cpus)
		if lower != c.lower || len(got) != len(c.want) {
			t.Errorf("%s: %v, %v", c.name, got, lower)
			continue
		}
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 1e-9 {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
	}
}

// scriptedBrake is the brake of a pod of one part that uses all it may.
type scriptedBrake struct {
	limit float64 // cores
	steps []float64
	err   error
}

func (b *scriptedBrake) Measure() ([]CPU, error) { return []CPU{{Used: b.limit, Limit: b.limit}}, nil }

func (b *scriptedBrake) Hold(cores []float64) (Throttle, error) {
	if b.err != nil {
		return Throttle{}, b.err
	}
	b.limit = cores[0]
	b.steps = append(b.steps, cores[0])
	return Throttle{Cores: cores[0], Of: 2}, nil
}

// throttled plays the rounds of a pod that has one core and writes so many MiB for each
// second of it, at a link of 100 MiB/s, until they end.
func throttled(t *testing.T, brake *scriptedBrake, policy Policy, writes func(cores float64) float64) (Decision, []RoundStat) {
	t.Helper()
	brake.limit = 1
	r := newTestRounds(t, Config{Tracker: newScripted(t, 1), Session: newSink(1), Policy: policy, Brake: brake})
	history := rounds(100, 1024)
	window, speed := history[0].Duration(), writes(1)
	for range 200 {
		before := len(brake.steps)
		d := r.decide(history, policy)
		if d.Stop {
			return d, history
		}
		// Not twice the same: S0 goes on as long as it expects no more than it found.
		found := min(speed*window.Seconds(), 1024-float64(len(history)%2))
		if len(brake.steps) > before && before > 0 && brake.steps[before] >= brake.steps[before-1] {
			t.Fatalf("steps %v do not lead down", brake.steps)
		}
		s := rounds(100, found)[0]
		s.Number, s.Window = len(history), window
		history = append(history, s)
		// What the next one finds was written while this one was copied, at the speed of then.
		window, speed = s.Duration()+d.Wait, writes(brake.limit)
	}
	t.Fatal("the rounds never end")
	return Decision{}, nil
}

func TestAPodThatIsHeldBackConverges(t *testing.T) {
	for _, rule := range []Rule{Default, S0} {
		brake := new(scriptedBrake)
		d, history := throttled(t, brake, Policy{Rule: rule, OnStall: SlowDown}, func(cores float64) float64 { return 300 * cores })
		if len(brake.steps) == 0 || d.Stalled() || d.Forecast.Downtime > DefaultDowntimeLimit {
			t.Errorf("%s: steps %v, %s", rule, brake.steps, d.Explain())
		}
		if d.Throttle.Cores != brake.limit || !strings.Contains(d.Explain(), d.Throttle.String()) {
			t.Errorf("%s: %q does not say %q", rule, d.Explain(), d.Throttle)
		}
		t.Logf("%s: steps %v, %d rounds: %s", rule, brake.steps, len(history), d.Explain())
	}
}

func TestAPodThatConvergesIsNotHeldBack(t *testing.T) {
	brake := new(scriptedBrake)
	if d, _ := throttled(t, brake, Policy{OnStall: SlowDown}, func(float64) float64 { return 5 }); len(brake.steps) > 0 || d.Throttle.Share() != 1 {
		t.Errorf("steps %v", brake.steps)
	}
}

func TestAPodThatIsHeldBackInVainIsFrozenAllTheSame(t *testing.T) {
	stubborn := func(float64) float64 { return 300 }
	brake := new(scriptedBrake)
	d, _ := throttled(t, brake, Policy{OnStall: SlowDown}, stubborn)
	if !d.Stalled() || brake.limit != floorCores {
		t.Errorf("steps %v, %s", brake.steps, d.Explain())
	}
	if err := d.stalled(Policy{OnStall: SlowDown}); err != nil {
		t.Error(err)
	}
	broken := &scriptedBrake{err: errors.New("no such cgroup")}
	if d, _ := throttled(t, broken, Policy{OnStall: SlowDown}, stubborn); !d.Stalled() || d.Throttle.Share() != 1 {
		t.Errorf("a brake that does not work: %s", d.Explain())
	}
}

func TestAPodIsNotHeldBackWhereItIsNotTheCopyThatTakesLong(t *testing.T) {
	still := Standstill{Freeze: time.Millisecond, Dump: 20 * time.Second, Restore: time.Second}
	brake := new(scriptedBrake)
	policy := Policy{OnStall: SlowDown, Standstill: still}
	d, _ := throttled(t, brake, policy, func(cores float64) float64 { return 300 * cores })
	if !d.Stalled() || len(brake.steps) > 0 {
		t.Errorf("steps %v, %s", brake.steps, d.Explain())
	}
	policy.OnStall = Abort
	if err := d.stalled(policy); !errors.Is(err, ErrSlowFreeze) {
		t.Error(err)
	}
}

func TestARoundThatBeganBeforeTheStepIsNotJudged(t *testing.T) {
	history := rounds(100, 1024, 1024, 1024, 1024)
	if d := judge(history, 0, Policy{}); !d.Stop {
		t.Fatalf("%+v", d)
	}
	if d := judge(history, 4, Policy{}); d.Stop {
		t.Errorf("it ends: %s", d.Explain())
	}
	if d := judge(history, 4, Policy{MaxRounds: 3}); d.Reason != RoundsSpent {
		t.Errorf("after all rounds that there may be: %+v", d)
	}
	quick := RoundStat{Number: 4, Pages: mib / pagestream.PageSize, Window: time.Second, Copy: 10 * time.Millisecond}
	if d := judge(append(history, quick), 4, Policy{}); d.Reason != ShortDowntime || d.Elapsed <= history[0].Duration() {
		t.Errorf("a short round since: %+v", d)
	}
}

func TestThrottleSays(t *testing.T) {
	for _, c := range []struct {
		throttle Throttle
		want     string
	}{
		{Throttle{}, ""},
		{Throttle{Cores: 0.8, Of: 2}, "throttled to 40 % of 2 CPUs"},
		{Throttle{Cores: 0.02, Of: 1}, "throttled to 2.0 % of 1 CPU"},
		{Throttle{Cores: 0.25, Of: 0.5}, "throttled to 50 % of 0.5 CPUs"},
	} {
		if got := c.throttle.String(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.throttle, got, c.want)
		}
	}
}
