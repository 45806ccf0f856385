package wire

import (
	"errors"
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
		l := newLimiter(c.rate)
		for i, n := range c.takes {
			now := start.Add(c.at[i])
			got, held, _ := l.wait(l.book(n, c.urgent[i], now), c.urgent[i], now)
			if d := got - c.want[i]; held || d < -time.Microsecond || d > time.Microsecond {
				t.Errorf("%s: take %d waits %v, want %v", c.name, i, got, c.want[i])
			}
		}
	}
}

func TestChangesOfTheLimitReachWhoWaits(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLimiter(1000)
	l.book(1000, false, now)
	mark := l.book(1000, false, now)
	wait, _, changed := l.wait(mark, false, now)
	l.set(0, true, now)
	select {
	case <-changed:
	default:
		t.Fatal("a change wakes nobody")
	}
	now = now.Add(time.Hour)
	if _, held, _ := l.wait(mark, false, now); !held {
		t.Error("bulk goes on while it is held back")
	}
	if wait, held, _ := l.wait(l.book(1, true, now), true, now); wait != 0 || held {
		t.Errorf("urgent frames wait %v, held back: %v", wait, held)
	}
	l.set(2000, false, now)
	if again, held, _ := l.wait(mark, false, now); held || again == 0 || again > wait {
		t.Errorf("with twice the rate it waits %v (held back: %v), before it was %v", again, held, wait)
	}
	l.set(0, false, now)
	if wait, held, _ := l.wait(mark, false, now); wait != 0 || held {
		t.Errorf("without a limit it waits %v, held back: %v", wait, held)
	}
}

func TestFramesAreBookedOnlyWhileSomethingIsLimited(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLimiter(0)
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
		if l.set(c.rate, c.paused, now); l.free.Load() != c.free {
			t.Errorf("%s: frames pass unbooked: %v", c.name, !c.free)
		}
	}
	if !newLimiter(0).free.Load() || newLimiter(1).free.Load() {
		t.Error("a new limiter does not know whether it limits")
	}
}

func TestWindowIsNotOverrunButForOneFrame(t *testing.T) {
	now := time.Unix(1000, 0)
	f := flow{window: 100}
	if f.room(1000) != nil {
		t.Error("a frame larger than the window must pass when nothing is under way")
	}
	f.add(60, now)
	if f.room(40) != nil {
		t.Error("no room for what fits")
	}
	changed := f.room(41)
	if changed == nil {
		t.Fatal("room for what does not fit")
	}
	if err := f.ack(30, 60, now); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("an acknowledgement wakes nobody")
	}
	if f.room(41) != nil {
		t.Error("no room after an acknowledgement")
	}
}

func TestAcknowledgementMustFitWhatWasSent(t *testing.T) {
	now := time.Unix(1000, 0)
	f := flow{window: 100}
	f.add(60, now)
	if err := f.ack(10, 20, now); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]uint64{{9, 20}, {10, 19}, {30, 20}, {10, 61}, {61, 61}} {
		if err := f.ack(c[0], c[1], now); !errors.Is(err, ErrProtocol) {
			t.Errorf("%d stored, %d received: %v, want ErrProtocol", c[0], c[1], err)
		}
	}
}

func TestPeerIsStuckOnlyWhileItOwes(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(1000+s, 0) }
	f := flow{window: 100}
	check := func(now int64, want time.Duration) {
		t.Helper()
		if got, _ := f.stuck(at(now)); got != want {
			t.Errorf("after %d s stuck for %v, want %v", now, got, want)
		}
	}
	check(50, 0)
	f.add(10, at(50))
	check(53, 3*time.Second)
	f.add(10, at(53)) // more work does not excuse the old
	check(54, 4*time.Second)
	f.ack(0, 5, at(55)) // bytes that come in are progress
	check(56, time.Second)
	f.ack(0, 5, at(57)) // saying the same again is none
	check(58, 3*time.Second)
	f.ack(20, 20, at(59))
	check(99, 0)
	f.add(1, at(100))
	check(101, time.Second)
}
