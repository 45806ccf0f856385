package wire

import (
	"testing"
	"time"
)

func TestAnEpochTellsProcessorAndLinkApart(t *testing.T) {
	const msec = time.Millisecond
	frame := transmission{wire: MaxData, raw: MaxData, total: 10 * msec, sealing: effort{2 * msec, 2 * msec}}
	free, held, inKernel, robbed := frame, frame, frame, frame
	free.kernel = effort{msec, msec}
	held.kernel, held.waited = effort{msec, msec}, 7*msec
	inKernel.kernel = effort{8 * msec, msec}
	// Others have three quarters of the processor: the kernel's work takes longer, and waits for nothing.
	robbed.sealing, robbed.kernel = effort{2 * msec, msec / 2}, effort{8 * msec, 2 * msec}
	for name, c := range map[string]struct {
		sent transmission
		link float64
		cpu  float64
	}{
		"free": {free, 0, 1}, "waits for the window": {held, MaxData * 100, 1}, "waits in the kernel": {inKernel, MaxData * 100, 1},
		"others work": {robbed, 0, 0.25},
	} {
		o := newObserver(Auto, 1, DefaultWindow)
		for range 200 {
			o.transmitted(c.sent)
		}
		if o.now.Link != c.link {
			t.Errorf("%s: link %g, want %g", name, o.now.Link, c.link)
		}
		if o.now.CPU < 0.9*c.cpu || o.now.CPU > 1.1*c.cpu {
			t.Errorf("%s: %g of a processor, want %g", name, o.now.CPU, c.cpu)
		}
		if want := MaxData / (c.sent.sealing.cpu + c.sent.kernel.cpu).Seconds(); o.now.Transmit < want*0.99 || o.now.Transmit > want*1.01 {
			t.Errorf("%s: transmits %g, want %g", name, o.now.Transmit, want)
		}
	}
}

func TestAPauseIsNoPartOfAnEpoch(t *testing.T) {
	const msec = time.Millisecond
	o := newObserver(Auto, 1, DefaultWindow)
	o.ask = func() (socket, bool) { return socket{}, true }
	at := time.Now()
	send := func(after time.Duration) uint64 {
		at = at.Add(after + msec)
		o.transmitted(transmission{wire: 1000, raw: 1000, end: at, total: msec})
		return o.epoch.wire
	}
	send(0)
	if got := send(away - msec); got != 2000 {
		t.Errorf("%d bytes are in the epoch after a short pause, want 2000", got)
	}
	if got := send(away + msec); got != 1000 || !o.epoch.began.Equal(at) {
		t.Errorf("%d bytes are in the epoch after a long one, want 1000", got)
	}
}

func TestALimitIsKeptWhileItIsRelieved(t *testing.T) {
	var l limit
	l.keep = keepLeast
	at := time.Second
	after := func(d time.Duration, through float64, held bool) float64 {
		at += d
		l.note(through, held, at)
		return l.value
	}
	if got := after(0, 100, true); got != 100 {
		t.Errorf("found: %g", got)
	}
	if got := after(keepLeast/2, 60, false); got != 100 {
		t.Errorf("relieved: %g", got)
	}
	if got := after(keepLeast, 60, false); got != 0 {
		t.Errorf("not seen for long: %g", got)
	}
	after(0, 100, true)
	if got := after(keepLeast+time.Second, 60, false); got != 100 {
		t.Errorf("it was found again: %g, so it is kept longer", got)
	}
	if got := after(0, 150, false); got != 150 {
		t.Errorf("more gets through: %g", got)
	}
	if got := after(0, 250, true); got != 200 {
		t.Errorf("another one: %g", got)
	}
}

func TestAChangeThatDoesNotPayIsTakenBack(t *testing.T) {
	const step = 50 * time.Millisecond
	for _, c := range []struct {
		name   string
		before float64
		after  []pace // with lz4, which leaves 0.4
		link   bool   // holds the stream back
		failed bool
	}{
		{"slower", 100, []pace{{100, 40}, {90, 36}, {90, 36}, {90, 36}}, false, true},
		{"faster", 100, []pace{{50, 20}, {110, 44}, {110, 44}, {110, 44}}, false, false},
		{"as fast, with noise", 100, []pace{{100, 40}, {90, 36}, {105, 42}, {100, 40}}, false, false},
		{"not seen long enough", 100, []pace{{50, 20}, {50, 20}, {50, 20}}, false, false},
		{"all that the link takes", 100, []pace{{200, 100}, {250, 100}, {250, 100}, {250, 100}}, true, false},
		{"all that the link takes, of memory that compresses less now", 100, []pace{{90, 100}, {90, 100}, {90, 100}, {90, 100}}, true, false},
		{"it seems to be the link, which takes less now than it saves", 100, []pace{{80, 32}, {80, 32}, {80, 32}, {80, 32}}, true, true},
	} {
		for _, seen := range []bool{true, false} {
			var p proof
			now := step
			if seen {
				p.epoch(rungNone, pace{c.before, c.before}, false, now)
			}
			p.begin(rungNone, rungLZ4, 1, 0.4, 1/c.before)
			failed := false
			for _, got := range c.after {
				now += step
				failed = p.epoch(rungLZ4, got, c.link, now) || failed
			}
			if failed != c.failed || p.banned(rungLZ4, now) != c.failed {
				t.Errorf("%s, what was before was seen %v: failed %v, want %v", c.name, seen, failed, c.failed)
			}
		}
	}
}

func TestABanEndsAndIsLongerTheNextTime(t *testing.T) {
	var p proof
	last := time.Duration(0)
	for range 10 {
		p.ban(rungZstd, 0)
		if p.until[rungZstd] < last || !p.banned(rungZstd, p.until[rungZstd]-1) || p.banned(rungZstd, p.until[rungZstd]) {
			t.Errorf("banned until %v after %v", p.until[rungZstd], last)
		}
		last = p.until[rungZstd]
	}
	if last != banMost {
		t.Errorf("banned for %v, want %v at most", last, banMost)
	}
}

func TestLevelsAreComparedOnTheSameBytes(t *testing.T) {
	o := newObserver(Auto, 1, DefaultWindow)
	o.compressed(rungZstd, 1000, 300, time.Microsecond)
	o.compressed(rungHigher, 1000, 900, time.Microsecond) // other bytes than before
	o.compared(rungHigher, 285, rungZstd, 300)
	if got := o.now.Did[rungHigher].Ratio; got < 0.284 || got > 0.286 {
		t.Errorf("leaves %g, want 0.285", got)
	}
	o.compared(rungLZ4, 500, rungZstd, 300)
	for range 100 {
		o.compressed(rungHigher, 1000, 190, time.Microsecond) // data that compresses better
	}
	if first := o.now.Did[rungZstd].Ratio; first < 0.19 || first > 0.21 {
		t.Errorf("the first level would leave %g, want 0.2", first)
	}
}

func TestAnEpochOfOneFrameThatWaitedLongTellsWhatTheLinkTakes(t *testing.T) {
	const msec = time.Millisecond
	o := newObserver(Auto, 1, DefaultWindow)
	o.ask = func() (socket, bool) { return socket{acked: 1000}, true }
	o.transmitted(transmission{wire: MaxData, raw: MaxData, end: time.Now(), total: 100 * msec, waited: 90 * msec, limited: 90 * msec,
		sealing: effort{msec, msec}})
	if want := float64(MaxData) * 10; o.now.Link != want || o.holds != theLink {
		t.Errorf("the link takes %g, want %g; %v", o.now.Link, want, o.holds)
	}
}
