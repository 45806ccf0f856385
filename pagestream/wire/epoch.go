package wire

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// epochLength and epochBytes are the least over which a stream is measured, firstEpoch the length of
	// the first one; each after it is twice as long. What the kernel says is in ticks of some milliseconds.
	epochLength = 50 * time.Millisecond
	firstEpoch  = 20 * time.Millisecond
	epochBytes  = 64 << 10
	// pure is the part of an epoch's bytes that must have gone with one rung for the epoch to
	// tell of that.
	pure = 0.75
	// away is how long a caller may be busy elsewhere, or be held back, between two frames of an epoch. After more
	// than that the connection has been at rest, of which nothing can be told.
	away = 100 * time.Millisecond
	// leastWork is the time of which it is told what part of a processor it had.
	leastWork = time.Millisecond
	// leastShare is the least part of a processor that is believed in.
	leastShare = 0.02
)

// effort is time that some work took: by the clock, and of the processor. What is missing between
// the two others had.
type effort struct{ wall, cpu time.Duration }

func (e *effort) add(o effort) { e.wall, e.cpu = e.wall+o.wall, e.cpu+o.cpu }

func (e *effort) sub(o effort) { e.wall, e.cpu = e.wall-o.wall, max(0, e.cpu-o.cpu) }

// stopwatch measures an effort of the calling goroutine, which stays on its thread meanwhile.
type stopwatch struct {
	wall time.Time
	cpu  time.Duration
}

func startWatch() stopwatch { return stopwatch{time.Now(), threadTime()} }

func (w stopwatch) stop() effort {
	wall := time.Since(w.wall)
	return effort{wall, min(max(threadTime()-w.cpu, 0), wall)}
}

// threadTime is the processor's time that the calling thread has used.
func threadTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0 // which no kernel does
	}
	return time.Duration(t.Nano())
}

// transmission is what sending one frame took.
type transmission struct {
	wire, raw   uint64 // bytes of the frame, and of its body before compression
	rung        rung   // that it went with
	asItIs      bool   // it does not compress, so nothing was chosen
	end         time.Time
	total       time.Duration // until then
	waited      time.Duration // of total, for the window and the limit
	limited     time.Duration // of waited, for the limit
	compressing effort
	sealing     effort // in encryption
	kernel      effort // in system calls
}

// epoch is transmissions, summed.
type epoch struct {
	stretch
	begun   bool
	began   time.Time
	last    time.Time        // when the last frame was sent
	socket  socket           // at the beginning
	known   bool             // whether that is known
	raw     [numRungs]uint64 // of frames that look compressible
	all     uint64           // raw bytes
	decodes float64          // seconds that the peer's processor decodes, by what is predicted
	working effort           // compressing and sealing
	kernel  effort
	sealing effort
}

// transmitted takes what sending a frame took. Time between calls, in which
// the caller was busy elsewhere, counts only for what the kernel says.
func (o *observer) transmitted(t transmission) {
	o.clock += t.total
	e := &o.epoch
	if !e.begun || t.end.Sub(e.last)-t.total > away {
		o.beginEpoch(t.end)
	}
	e.last = t.end
	e.total += t.total
	e.waited += t.waited
	e.limited += t.limited
	e.wire += t.wire
	e.all += t.raw
	e.decodes += float64(t.raw) * o.now.decoding(t.rung)
	if !t.asItIs {
		e.raw[t.rung] += t.raw
	}
	e.working.add(t.compressing)
	e.working.add(t.sealing)
	e.sealing.add(t.sealing)
	e.kernel.add(t.kernel)
	if e.total >= o.length && e.wire >= epochBytes {
		o.endEpoch(t.end)
	}
}

// beginEpoch begins the first one, or one after a pause, with what the kernel says before it.
func (o *observer) beginEpoch(now time.Time) {
	o.epoch = epoch{begun: true, began: now, stretch: stretch{window: o.epoch.window}}
	if o.ask != nil {
		o.epoch.socket, o.epoch.known = o.ask()
	}
}

// endEpoch draws the conclusions.
func (o *observer) endEpoch(now time.Time) {
	e := &o.epoch
	c := &o.now
	o.length = min(2*o.length, epochLength)
	// Summed until there is enough of it: the epochs that have much by themselves are those that were interrupted.
	o.working.add(e.working)
	if o.working.wall > leastWork {
		share := o.working.cpu.Seconds() / o.working.wall.Seconds()
		c.CPU += (max(share, leastShare) - c.CPU) / 2
		o.working = effort{}
	}
	// A system call waits for the socket, or for a processor as long as other work does.
	e.waited += max(0, e.kernel.wall-time.Duration(e.kernel.cpu.Seconds()/c.CPU*float64(time.Second)))
	if used := e.sealing.cpu + e.kernel.cpu; used > 0 {
		c.Transmit = float64(e.wire) / used.Seconds()
	}
	c.Idle = o.idle.now(now)
	o.askSocket(now)
	o.holds = e.bottleneck()
	o.noteLimits(now)
	o.noteBound(o.holds == theLink && c.slowLink(e.isLimited()), e.wire)
	o.noteProof()
	o.epoch = epoch{begun: true, began: now, last: now, socket: e.socket, known: e.known, stretch: stretch{window: e.window}}
}

// askSocket completes the epoch by what the kernel says of it.
func (o *observer) askSocket(now time.Time) {
	if o.ask == nil {
		return
	}
	e := &o.epoch
	s, ok := o.ask()
	// An epoch of one frame, the first one, which has waited long, began when that had been sent: nothing is known of its time.
	if ok && e.known && now.After(e.began) {
		e.asked = true
		e.wall = now.Sub(e.began)
		e.busy, e.full = s.busy-e.socket.busy, s.full-e.socket.full
		e.acked, e.unsent = s.acked-e.socket.acked, s.unsent
		e.roundTrip, e.window = s.roundTrip, max(e.window, s.window)
	}
	e.socket, e.known = s, ok
}

// noteLimits takes in what held the stream back.
func (o *observer) noteLimits(now time.Time) {
	e, c := &o.epoch, &o.now
	peer := (e.decodes + float64(e.wire)/c.Transmit) / e.total.Seconds()
	o.link.note(o.shares.note(o.number, e.through(), now), o.holds == theLink, o.clock)
	o.peer.note(max(peer, leastShare), o.holds == receiverSlow, o.clock)
	if o.holds == processors && o.mostly(rungNone) {
		// It has been seen that the stream is as fast as it gets.
		o.link.forget()
		o.peer.forget()
	}
	c.Link, c.Receiver = o.link.value, min(1, o.peer.value)
	for r := range o.now.Slower {
		o.now.Slower[r] = o.proof.banned(rung(r), o.clock)
	}
}

// mostly says whether the epoch went with one rung, chosen for its speed.
func (o *observer) mostly(r rung) bool { return float64(o.epoch.raw[r]) >= pure*float64(o.epoch.all) }

const (
	keepLeast = 2 * time.Second
	keepMost  = 32 * time.Second
)

// limit is what the link, or the receiver, lets through, found when that held the stream back. Once
// less work or fewer bytes have relieved it nothing is seen of it any more, so it is kept for a
// while: for longer each time it is found again.
type limit struct {
	value float64 // 0: none
	seen  time.Duration
	keep  time.Duration
}

// note takes what got through, and whether more was to be sent.
func (l *limit) note(through float64, held bool, now time.Duration) {
	switch {
	case held && l.value == 0:
		if now-l.seen < 2*l.keep && l.seen > 0 {
			l.keep = min(2*l.keep, keepMost)
		} else {
			l.keep = keepLeast
		}
		l.value, l.seen = through, now
	case held:
		l.value += (through - l.value) / 2
		l.seen = now
	case now-l.seen > l.keep:
		l.forget()
	case l.value > 0:
		l.value = max(l.value, through)
	}
}

func (l *limit) forget() { l.value = 0 }
