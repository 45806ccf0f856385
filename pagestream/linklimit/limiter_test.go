package linklimit

import (
	"testing"
	"time"
)

func TestLimiterKeepsItsRateOverTime(t *testing.T) {
	start := time.Unix(1000, 0)
	const burst = limiterBurst
	for _, c := range []struct {
		name   string
		rate   int64
		takes  []uint64
		urgent []bool
		at     []time.Duration // when they are asked for
		want   []time.Duration // how long they wait
	}{
		{"no limit", 0, []uint64{1 << 30, 1 << 30}, []bool{false, false}, []time.Duration{0, 0}, []time.Duration{0, 0}},
		{"debt is waited for", 1000, []uint64{1000, 500, 1}, []bool{false, false, false}, []time.Duration{0, 0, 0},
			[]time.Duration{0, time.Second - burst, 1500*time.Millisecond - burst}},
		{"time pays it off", 1000, []uint64{1000, 1}, []bool{false, false}, []time.Duration{0, 600 * time.Millisecond},
			[]time.Duration{0, 400*time.Millisecond - burst}},
		{"idle time is not saved up", 1000, []uint64{1, 1000, 1}, []bool{false, false, false}, []time.Duration{0, time.Hour, time.Hour},
			[]time.Duration{0, 0, time.Second - burst}},
		{"urgent does not wait for bulk", 1000, []uint64{5000, 100, 1}, []bool{false, true, true}, []time.Duration{0, 0, 0},
			[]time.Duration{0, 0, 100*time.Millisecond - burst}},
		{"bulk waits for urgent", 1000, []uint64{1000, 2000, 1}, []bool{true, false, false}, []time.Duration{0, 0, 0},
			[]time.Duration{0, time.Second - burst, 3*time.Second - burst}},
	} {
		l := New(c.rate)
		for i, n := range c.takes {
			now := start.Add(c.at[i])
			got, held, _ := l.Wait(l.Book(n, c.urgent[i], now), c.urgent[i], now)
			if d := got - c.want[i]; held || d < -time.Microsecond || d > time.Microsecond {
				t.Errorf("%s: take %d waits %v, want %v", c.name, i, got, c.want[i])
			}
		}
	}
}

func TestChangesOfTheLimitReachWhoWaits(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(1000)
	l.Book(1000, false, now)
	mark := l.Book(1000, false, now)
	wait, _, changed := l.Wait(mark, false, now)
	l.Set(0, true, now)
	select {
	case <-changed:
	default:
		t.Fatal("a change wakes nobody")
	}
	now = now.Add(time.Hour)
	if _, held, _ := l.Wait(mark, false, now); !held {
		t.Error("bulk goes on while it is held back")
	}
	if wait, held, _ := l.Wait(l.Book(1, true, now), true, now); wait != 0 || held {
		t.Errorf("urgent frames wait %v, held back: %v", wait, held)
	}
	l.Set(2000, false, now)
	if again, held, _ := l.Wait(mark, false, now); held || again == 0 || again > wait {
		t.Errorf("with twice the rate it waits %v (held back: %v), before it was %v", again, held, wait)
	}
	l.Set(0, false, now)
	if wait, held, _ := l.Wait(mark, false, now); wait != 0 || held {
		t.Errorf("without a limit it waits %v, held back: %v", wait, held)
	}
}

func TestFramesAreBookedOnlyWhileSomethingIsLimited(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(0)
	for _, c := range []struct {
		name   string
		rate   int64
		paused bool
		free   bool
	}{
		{"a limit", 1000, false, false},
		{"bulk held back under a limit", 1000, true, false},
		{"bulk held back alone", 0, true, false},
		{"nothing", 0, false, true},
		{"a limit again", 1, false, false},
	} {
		if l.Set(c.rate, c.paused, now); l.Free() != c.free {
			t.Errorf("%s: frames pass unbooked: %v", c.name, !c.free)
		}
	}
	if !New(0).Free() || New(1).Free() {
		t.Error("a new limiter does not know whether it limits")
	}
}

func TestTheTimeInWhichBulkIsHeldBackIsCounted(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(1000)
	for _, c := range []struct {
		paused bool
		after  time.Duration
		held   time.Duration // in all, then
	}{
		{false, time.Second, 0}, {true, time.Second, time.Second}, {true, time.Second, 2 * time.Second}, {false, time.Hour, 2 * time.Second},
		{true, time.Minute, time.Minute + 2*time.Second},
	} {
		l.Set(1000, c.paused, now)
		now = now.Add(c.after)
		if got := l.Held(now); got != c.held {
			t.Errorf("held back for %v, want %v", got, c.held)
		}
	}
}

// BenchmarkFrame is what a frame costs that need not wait.
func BenchmarkFrame(b *testing.B) {
	for _, c := range []struct {
		name string
		rate int64
	}{{"without a limit", 0}, {"with a limit", 1 << 60}} {
		b.Run(c.name, func(b *testing.B) {
			l := New(c.rate)
			now := time.Now()
			for b.Loop() {
				if l.Free() {
					continue
				}
				l.Wait(l.Book(1<<10, false, now), false, now)
			}
		})
	}
}
