package precopy

import (
	"math/rand/v2"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

const mib = 1 << 20

// rounds makes a history from the MiB found in each round, copied at so many
// MiB a second, one right after the other.
func rounds(rate float64, found ...float64) []RoundStat {
	const scan = 5 * time.Millisecond
	var history []RoundStat
	for i, m := range found {
		s := RoundStat{Number: i, Pages: uint64(m * mib / pagestream.PageSize), Scan: scan}
		s.Copied.Sent = s.Pages
		s.Copy = 2*time.Millisecond + time.Duration(m/rate*float64(time.Second))
		if i > 0 {
			s.Window = history[i-1].Duration()
		}
		history = append(history, s)
	}
	return history
}

func TestDecide(t *testing.T) {
	noisy := rounds(1000, 1024, 100, 20, 8)
	noisy[3].Copy = 3 * time.Second // the link stalled: much is dirty behind it
	sharedLong := rounds(1000, 1024, 2)
	sharedLong[1].SharedCopy = 20 * time.Second
	for _, c := range []struct {
		name    string
		history []RoundStat
		policy  Policy
		want    Reason
	}{
		{"nothing is known after the first copy", rounds(1000, 1), Policy{}, GoOn},
		{"nothing to copy at all", rounds(1000, 0), Policy{}, GoOn},
		{"nothing to copy twice", rounds(1000, 0, 0), Policy{}, BelowLimit},
		{"first dirty round is large", rounds(1000, 1024, 90), Policy{}, GoOn},
		{"first dirty round is small", rounds(1000, 1024, 3), Policy{}, BelowLimit},
		{"nothing became dirty", rounds(1000, 1024, 0), Policy{}, BelowLimit},
		{"shrinking, above the limit", rounds(1000, 1024, 300, 90, 40), Policy{}, GoOn},
		{"default limit grows with the rate", rounds(4000, 4096, 300, 90), Policy{}, BelowLimit},
		{"user's limit is above", rounds(1000, 1024, 100), Policy{DirtyLimit: 200 * mib}, BelowLimit},
		{"user's limit is below", rounds(1000, 1024, 100, 3), Policy{DirtyLimit: mib}, GoOn},
		{"a round below the limit that took long leaves much behind", noisy, Policy{DirtyLimit: 10 * mib}, GoOn},
		{"so does a look at shared memory", sharedLong, Policy{}, GoOn},
		{"one round that grew is noise", rounds(100, 1024, 300, 100, 130), Policy{}, GoOn},
		{"and is forgotten when the next one shrinks", rounds(100, 1024, 300, 100, 130, 80), Policy{}, GoOn},
		{"two rounds that did not shrink", rounds(100, 1024, 300, 100, 130, 99), Policy{}, NoProgress},
		{"two rounds that hardly shrank", rounds(100, 1024, 300, 100, 98, 95), Policy{}, NoProgress},
		{"everything is written all the time", rounds(100, 1024, 1024, 1024), Policy{}, NoProgress},
		{"everything written once is no verdict", rounds(100, 1024, 1024), Policy{}, GoOn},
		{"rounds spent", rounds(100, 1024, 500, 200), Policy{MaxRounds: 2}, RoundsSpent},
		{"rounds not yet spent", rounds(100, 1024, 500), Policy{MaxRounds: 2}, GoOn},
		{"the first copy is no round", rounds(100, 1024), Policy{MaxRounds: 1}, GoOn},
		{"time spent", rounds(100, 1024, 500), Policy{MaxTime: 15 * time.Second}, TimeSpent},
		{"next round would not fit", rounds(100, 1024, 500), Policy{MaxTime: 17 * time.Second}, TimeSpent},
		{"next round fits", rounds(100, 1024, 500), Policy{MaxTime: 30 * time.Second}, GoOn},
		{"first copy took all the time", rounds(1, 1024), Policy{MaxTime: time.Minute}, TimeSpent},
		{"below the limit counts for more than spent", rounds(1000, 1024, 2), Policy{MaxRounds: 1}, BelowLimit},
	} {
		d := decide(c.history, c.policy, LastRate{})
		if d.Reason != c.want || d.Stop != (c.want != GoOn) {
			t.Errorf("%s: %+v, want reason %q", c.name, d, c.want)
		}
	}
}

// model is a pod and a link: memory MiB in all, of which hot MiB are written
// evenly at write MiB a second and found once however often they are written.
type model struct {
	memory, hot, write, link float64
	overhead                 time.Duration
	noise                    float64 // share by which times and amounts vary
}

func (m model) play(policy Policy, seed uint64) ([]RoundStat, Decision) {
	rng := rand.New(rand.NewPCG(seed, 7))
	vary := func(x float64) float64 { return x * (1 + m.noise*(2*rng.Float64()-1)) }
	var history []RoundStat
	found := m.memory
	for {
		s := RoundStat{Number: len(history), Pages: uint64(found * mib / pagestream.PageSize)}
		s.Copied.Sent = s.Pages
		s.Scan = time.Duration(vary(float64(m.overhead)))
		s.Copy = time.Duration(vary(found / m.link * float64(time.Second)))
		if s.Number > 0 {
			s.Window = history[s.Number-1].Duration()
		}
		history = append(history, s)
		d := decide(history, policy, LastRate{})
		if d.Stop {
			return history, d
		}
		found = min(m.hot, vary(m.write*s.Duration().Seconds()))
	}
}

func TestRoundsEndAtTheFixedPoint(t *testing.T) {
	for _, c := range []struct {
		name   string
		m      model
		policy Policy
		most   int     // rounds after the first
		left   float64 // MiB found by the last round at most
		reason Reason
	}{
		{"idle", model{1024, 0, 0, 700, 10 * time.Millisecond, 0.2}, Policy{}, 1, 0, BelowLimit},
		{"redis on a fast link", model{1200, 1200, 60, 700, 12 * time.Millisecond, 0.2}, Policy{}, 4, 17.5, BelowLimit},
		{"redis on 1 Gbit/s", model{1200, 1200, 60, 110, 15 * time.Millisecond, 0.2}, Policy{}, 14, 4, BelowLimit},
		{"limit that cannot be reached", model{1200, 1200, 60, 700, 12 * time.Millisecond, 0.2}, Policy{DirtyLimit: 64 << 10}, 10, 2, NoProgress},
		{"small hot set", model{4096, 3, 5000, 700, 12 * time.Millisecond, 0.2}, Policy{}, 1, 3, BelowLimit},
		{"large hot set", model{4096, 200, 5000, 700, 12 * time.Millisecond, 0.2}, Policy{}, 4, 201, NoProgress},
		{"faster than the link", model{1024, 1024, 300, 110, 12 * time.Millisecond, 0.2}, Policy{}, 5, 1025, NoProgress},
	} {
		for seed := range uint64(50) {
			history, d := c.m.play(c.policy, seed)
			last := history[len(history)-1]
			if len(history)-1 > c.most || float64(last.Bytes())/mib > c.left || d.Reason != c.reason {
				t.Errorf("%s, seed %d: %d rounds, %.1f MiB left, %q; want at most %d, %.1f, %q",
					c.name, seed, len(history)-1, float64(last.Bytes())/mib, d.Reason, c.most, c.left, c.reason)
				break
			}
		}
	}
}

func TestDecideNeverGoesOnWithoutEnd(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		m := model{
			memory: rng.Float64() * 10000, hot: rng.Float64() * 10000, write: rng.Float64() * 5000,
			link: 1 + rng.Float64()*5000, overhead: time.Duration(rng.Int64N(int64(time.Second))), noise: rng.Float64(),
		}
		history, _ := m.play(Policy{}, rng.Uint64())
		if n := len(history) - 1; n > DefaultMaxRounds {
			t.Fatalf("%+v: %d rounds", m, n)
		}
	}
}

func TestRemainingIsCloseToWhatTheRoundsTake(t *testing.T) {
	m := model{1200, 1200, 60, 110, 15 * time.Millisecond, 0}
	history, _ := m.play(Policy{}, 1)
	for n := 2; n < len(history); n++ {
		var want time.Duration
		for _, s := range history[n:] {
			want += s.Duration()
		}
		got := remaining(history[:n], Policy{}, forecast(history[:n], LastRate{}))
		if got < want*8/10 || got > want*12/10+20*time.Millisecond {
			t.Errorf("after round %d: %v expected, took %v", n-1, got, want)
		}
	}
}

// fixedRate predicts always the same.
type fixedRate float64

func (f fixedRate) DirtyRate([]RoundStat) float64 { return float64(f) }

func TestThePredictorDecides(t *testing.T) {
	history := rounds(1000, 1024, 100, 3)
	if d := decide(history, Policy{}, fixedRate(10*1024*mib)); d.Stop {
		t.Errorf("%+v, though much is predicted", d)
	}
	if d := decide(history, Policy{}, fixedRate(-5)); d.Reason != BelowLimit || d.Forecast.Dirty != 0 {
		t.Errorf("%+v, though nothing is predicted", d)
	}
}
