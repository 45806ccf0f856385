package precopy

import (
	"math"
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

func TestDecideByDowntime(t *testing.T) {
	// A pod that stands still for 100 ms at least, 50 of which the dump takes.
	still := Standstill{Freeze: 10 * time.Millisecond, Dump: 50 * time.Millisecond, Restore: 40 * time.Millisecond}
	noisy := rounds(1000, 1024, 100, 20, 8)
	noisy[3].Copy = 3 * time.Second // the link stalled: much is dirty behind it
	sharedLong := rounds(1000, 1024, 5)
	sharedLong[1].SharedCopy = 20 * time.Second
	hot := sorted(100, 15, 1, 1, 1, 1, 1)
	for _, c := range []struct {
		name    string
		history []RoundStat
		policy  Policy
		want    Reason
	}{
		{"nothing is known after the first copy", rounds(1000, 1), Policy{}, GoOn},
		{"nothing to copy at all", rounds(1000, 0), Policy{}, GoOn},
		{"nothing to copy twice", rounds(1000, 0, 0), Policy{}, ShortDowntime},
		{"what is left is copied while CRIU dumps", rounds(1000, 1024, 40), Policy{}, ShortDowntime},
		{"first dirty round takes longer than that", rounds(1000, 1024, 90), Policy{}, GoOn},
		{"nothing became dirty", rounds(1000, 1024, 0), Policy{}, ShortDowntime},
		{"shrinking, below the limit, and a round still gains", rounds(1000, 1024, 300, 90), Policy{}, GoOn},
		{"no longer shrinking, below the limit", rounds(1000, 1024, 90, 88, 90, 89, 90), Policy{}, ShortDowntime},
		{"no longer shrinking, above the limit", rounds(100, 1024, 90, 88, 90, 89, 90), Policy{}, NoProgress},
		{"above a short limit, though close to it", rounds(1000, 1024, 90, 88, 90, 89, 90), Policy{DowntimeLimit: 110 * time.Millisecond}, NoProgress},
		{"a round below the limit that took long leaves much behind", noisy, Policy{}, GoOn},
		{"so does a look at shared memory", sharedLong, Policy{}, GoOn},
		{"everything is written all the time", rounds(100, 1024, 1024, 1024), Policy{}, NoProgress},
		{"pages left out count in full", hot, Policy{}, ShortDowntime},
		{"and may be too many", hot, Policy{DowntimeLimit: 150 * time.Millisecond}, NoProgress},
		{"user's amount is above", rounds(1000, 1024, 100), Policy{DirtyLimit: 200 * mib}, BelowLimit},
		{"user's amount is below, though the downtime is short", rounds(1000, 1024, 100, 3), Policy{DirtyLimit: mib}, GoOn},
		{"and is not reached", rounds(1000, 1024, 100, 3, 3, 3, 3), Policy{DirtyLimit: mib}, NoProgress},
		{"rounds spent", rounds(100, 1024, 500, 200), Policy{MaxRounds: 2}, RoundsSpent},
		{"rounds not yet spent", rounds(100, 1024, 500), Policy{MaxRounds: 2}, GoOn},
		{"the first copy is no round", rounds(100, 1024), Policy{MaxRounds: 1}, GoOn},
		{"time spent", rounds(100, 1024, 500), Policy{MaxTime: 15 * time.Second}, TimeSpent},
		{"next round would not fit", rounds(100, 1024, 500), Policy{MaxTime: 17 * time.Second}, TimeSpent},
		{"next round fits", rounds(100, 1024, 500), Policy{MaxTime: 30 * time.Second}, GoOn},
		{"first copy took all the time", rounds(1, 1024), Policy{MaxTime: time.Minute}, TimeSpent},
		{"a short downtime counts for more than spent", rounds(1000, 1024, 2), Policy{MaxRounds: 1}, ShortDowntime},
	} {
		c.policy.Standstill = still
		d := Decide(c.history, c.policy)
		if d.Reason != c.want || d.Stop != (c.want != GoOn) || d.Stop != (d.Explain() != "") {
			t.Errorf("%s: %+v, want reason %q", c.name, d, c.want)
		}
	}
}

// sorted makes a history as rounds does, of 1 GiB; its rounds after the first leave out hot
// MiB and find and send so many others.
func sorted(rate, hot float64, found ...float64) []RoundStat {
	history := rounds(rate, append([]float64{1024}, found...)...)
	for i := 1; i < len(history); i++ {
		s := &history[i]
		s.Sorted, s.Fresh, s.Lost, s.Hot = true, s.Pages, s.Pages, uint64(hot*mib/pagestream.PageSize)
		s.Pages += s.Hot
		s.Before = history[i-1].Hot
	}
	return history
}

// By hand: 100 MiB/s; the last round left out 6 MiB of the 16 that it found in 1 s, and
// took 0.5 s. What it sent is dirty again in part, 10 * 0.5^0.7 MiB = 6.16; with the 6
// left out that is 12.16 MiB, 121.6 ms, after a scan of 5.
func TestForecastByHand(t *testing.T) {
	history := rounds(100, 100, 16)
	history = append(history, RoundStat{
		Number: 2, Pages: 16 * mib / pagestream.PageSize, Sorted: true, Hot: 6 * mib / pagestream.PageSize,
		Fresh: 10 * mib / pagestream.PageSize, Lost: 10 * mib / pagestream.PageSize, Before: 6 * mib / pagestream.PageSize, Window: time.Second, Scan: 5 * time.Millisecond, Copy: 495 * time.Millisecond,
	})
	history[0].Copy = time.Second
	policy := Policy{Standstill: Standstill{time.Millisecond, 30 * time.Millisecond, 20 * time.Millisecond}}
	f := forecast(history, policy)
	about := func(name string, got, want float64) {
		if got < want*0.995 || got > want*1.005 {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	about("last", float64(f.Last)/mib, 6+6.156)
	about("left", float64(f.Left)/mib, 6)
	about("last copy", float64(f.LastCopy.Microseconds())/1e3, 5+121.56)
	about("downtime", float64(f.Downtime.Microseconds())/1e3, 1+5+121.56+20)
	about("dirty rate", f.DirtyRate/mib, 10)
	// The next round carries 9.16 MiB, half of those left out among them, in 96.6 ms, in
	// which 10 * 0.0966^0.7 = 1.95 MiB become dirty beside the 3 that it leaves out.
	about("next round", float64(f.Dirty)/mib, 9.156)
	about("its time", float64(f.Duration.Microseconds())/1e3, 96.56)
	about("downtime after it", float64(f.Next.Microseconds())/1e3, 1+5+49.55+20)
	about("dirty again then", float64(f.Again)/mib, 1.95)

	// It lost half of the 94 MiB that the destination had: of as many, 94 * (1 - 0.5^0.5) = 27.53 MiB
	// are lost in half a second. Another 8 MiB cannot be tracked.
	last := &history[2]
	last.Lost, last.Untracked = 47*mib/pagestream.PageSize, 8*mib/pagestream.PageSize
	f = forecast(history, policy)
	about("last", float64(f.Last)/mib, 6+27.53+8)
	about("downtime", float64(f.Downtime.Microseconds())/1e3, 1+5+415.3+20)
	about("downtime without what cannot be tracked", float64(policy.without(f, f.Untracked).Microseconds())/1e3, 1+4+335.3+20)
	// These 27.53 MiB and half of those that were left out wait for the next round.
	about("next round", float64(f.Dirty)/mib, 30.53)
}

func TestACalmerMomentIsWaitedFor(t *testing.T) {
	// Little was dirty once; then a burst begins, in which no round gains anything.
	burst := rounds(100, 1024, 5, 100, 100, 100, 100)
	d := Decide(burst, Policy{})
	if d.Stop || d.Wait != calmWait {
		t.Errorf("%+v", d)
	}
	for i := range burst[1:] {
		burst[i+1].Window += 10 * time.Second
	}
	if d := Decide(burst, Policy{}); d.Reason != NoProgress {
		t.Errorf("waits for ever: %+v", d)
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
		d := Decide(history, policy)
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
	}{
		{"idle", model{1024, 0, 0, 700, 10 * time.Millisecond, 0.2}, Policy{}, 1, 0},
		{"redis on a fast link", model{1200, 1200, 60, 700, 12 * time.Millisecond, 0.2}, Policy{}, 4, 40},
		{"redis on 1 Gbit/s", model{1200, 1200, 60, 110, 15 * time.Millisecond, 0.2}, Policy{}, 14, 8},
		{"small hot set", model{4096, 3, 5000, 700, 12 * time.Millisecond, 0.2}, Policy{}, 1, 3},
		{"large hot set", model{4096, 200, 5000, 700, 12 * time.Millisecond, 0.2}, Policy{}, 8, 201},
		{"faster than the link", model{1024, 1024, 300, 110, 12 * time.Millisecond, 0.2}, Policy{}, 6, 1025},
		{"S0, redis on 1 Gbit/s", model{1200, 1200, 60, 110, 15 * time.Millisecond, 0.2}, Policy{Rule: S0}, 20, 8},
		{"S0, large hot set", model{4096, 200, 5000, 700, 12 * time.Millisecond, 0}, Policy{Rule: S0, MaxTime: time.Minute}, 200, 201},
	} {
		for seed := range uint64(50) {
			history, d := c.m.play(c.policy, seed)
			last := history[len(history)-1]
			if len(history)-1 > c.most || float64(last.Bytes())/mib > c.left || !d.Stop {
				t.Errorf("%s, seed %d: %d rounds, %.1f MiB left, %q; want at most %d, %.1f",
					c.name, seed, len(history)-1, float64(last.Bytes())/mib, d.Reason, c.most, c.left)
				break
			}
		}
	}
}

func randomModel(rng *rand.Rand) model {
	return model{
		memory: rng.Float64() * 10000, hot: rng.Float64() * 10000, write: rng.Float64() * 5000,
		link: 1 + rng.Float64()*5000, overhead: time.Duration(rng.Int64N(int64(time.Second))), noise: rng.Float64(),
	}
}

func TestRoundsNeverGoOnWithoutEnd(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		m := randomModel(rng)
		for _, rule := range []Rule{Default, S0} {
			most := 1 + rng.IntN(50)
			history, _ := m.play(Policy{Rule: rule, MaxRounds: most}, rng.Uint64())
			if n := len(history) - 1; n > most {
				t.Fatalf("%s, %+v: %d rounds of %d", rule, m, n, most)
			}
		}
	}
}

// Whoever is content with a longer downtime, with fewer rounds or with less time never
// gets more rounds.
func TestRoundsAreMonotoneInTheLimits(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		m, seed := randomModel(rng), rng.Uint64()
		loose := Policy{
			MaxRounds: 1 + rng.IntN(100), MaxTime: time.Duration(1 + rng.Int64N(int64(time.Hour))),
			DowntimeLimit: time.Duration(1 + rng.Int64N(int64(10*time.Second))),
		}
		tight := loose
		switch rng.IntN(3) {
		case 0:
			tight.MaxRounds = 1 + rng.IntN(loose.MaxRounds)
		case 1:
			tight.MaxTime = time.Duration(1 + rng.Int64N(int64(loose.MaxTime)))
		case 2:
			tight.DowntimeLimit += time.Duration(rng.Int64N(int64(10 * time.Second)))
		}
		for _, rule := range []Rule{Default, S0} {
			loose.Rule, tight.Rule = rule, rule
			many, _ := m.play(loose, seed)
			few, _ := m.play(tight, seed)
			if len(few) > len(many) {
				t.Fatalf("%s, %+v: %d rounds with %+v, %d with %+v", rule, m, len(many)-1, loose, len(few)-1, tight)
			}
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
		got := remaining(history[:n], Policy{}, forecast(history[:n], Policy{}))
		if got < want*8/10 || got > want*13/10+60*time.Millisecond {
			t.Errorf("after round %d: %v expected, took %v", n-1, got, want)
		}
	}
}

func TestTheRateOfCopyingIsThatWhileItWasNotHeldBack(t *testing.T) {
	sent := func(mib uint64) CopyStats { return CopyStats{Sent: mib << 20 / pagestream.PageSize} }
	for _, c := range []struct {
		name    string
		history []RoundStat
		mib     float64 // a second
	}{
		{"one round", []RoundStat{{Copy: 2 * time.Second, Copied: sent(100)}}, 50},
		{"held back for a while", []RoundStat{{Copy: 2 * time.Second, Held: time.Second, Copied: sent(100)}}, 100},
		{"a later round held back", []RoundStat{{Copy: time.Second, Copied: sent(64)}, {Copy: 9 * time.Second, Held: 8 * time.Second, Copied: sent(64)}}, 64},
		{"held back for all of it", []RoundStat{{Copy: time.Second, Held: time.Second, Copied: sent(64)}}, 0},
	} {
		if got := copyRate(c.history) / (1 << 20); math.Abs(got-c.mib) > 1e-6 {
			t.Errorf("%s: %v MiB/s, want %v", c.name, got, c.mib)
		}
	}
}
