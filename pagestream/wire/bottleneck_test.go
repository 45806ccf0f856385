package wire

import (
	"testing"
	"time"
)

func TestWhatHoldsAStreamBackIsTold(t *testing.T) {
	const msec = time.Millisecond
	of := func(waited, busy, full time.Duration) stretch {
		return stretch{wall: 100 * msec, total: 100 * msec, waited: waited, wire: 5 << 20,
			asked: true, busy: busy, full: full, acked: 5 << 20, roundTrip: msec / 10, window: 3 << 20}
	}
	long := of(80*msec, 100*msec, 90*msec)
	long.roundTrip = 50 * msec // 2.5 MiB a round trip
	limited := of(80*msec, 10*msec, 0)
	limited.limited = 70 * msec
	ahead, nearly, choked := of(0, 100*msec, 0), of(0, 100*msec, 0), of(0, 100*msec, 90*msec)
	ahead.unsent, nearly.unsent, choked.unsent = 1<<20, 400<<10, 1<<20 // for 20, 8 and 20 ms
	silent := of(80*msec, 0, 0)
	silent.asked = false
	for _, c := range []struct {
		name string
		in   stretch
		want bottleneck
	}{
		{"it hardly waits", of(20*msec, 100*msec, 0), processors},
		{"bytes are on their way all the time, to a peer that reads", of(80*msec, 100*msec, 5*msec), theLink},
		{"the peer's window is closed most of the time", of(80*msec, 100*msec, 80*msec), receiverSlow},
		{"the peer has it all and does not say that it is stored", of(80*msec, 10*msec, 0), receiverSlow},
		{"the peer's window is filled by each round trip", long, theLink},
		{"it does not wait yet, but the socket fills", ahead, theLink},
		{"the socket is never quite empty", nearly, processors},
		{"the socket fills as the peer's window is closed", choked, receiverSlow},
		{"a limit on the bandwidth", limited, theLink},
		{"the kernel says nothing", silent, theLink},
	} {
		if got := c.in.bottleneck(); got != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

func TestIdleProcessorsAreRead(t *testing.T) {
	for text, want := range map[string]float64{"12595.25 5416.23\n": 5416.23, "": -1, "1 2 3": -1, "1 x": -1, "1 -2": -1} {
		got, ok := parseIdle([]byte(text))
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %g, %v", text, got, ok)
		}
	}
	p := newIdleProcessors()
	start := time.Now()
	if n := p.now(start); n >= 0 {
		t.Errorf("%g processors were idle before it was looked at", n)
	}
	if n := p.now(start.Add(time.Hour)); n < 0 || n > 1 {
		t.Errorf("%g processors' time of no time at all is spread over an hour", n)
	}
	if n := (*idleProcessors)(nil).now(start); n >= 0 {
		t.Errorf("nobody knows of %g", n)
	}
}
