// Package linklimit keeps what is sent to a rate, and lets what is urgent go ahead. Who sends
// asks it before each frame; what the rate is, and when others have to stand back, its users
// are told by whoever divides the link.
package linklimit

import (
	"sync"
	"sync/atomic"
	"time"
)

// Limiter is what several senders together may send in a second. It has two
// lanes: urgent frames never wait for bulk, bulk waits for both, and can be
// held back altogether. A lane may run into debt by one frame, which the next
// ones wait for: a frame is never split, and with few bytes per second each
// waits its turn. The rate may change at any time, also for frames that wait.
type Limiter struct {
	// free says that nothing is limited or held back: frames need not be booked, as
	// those of such a time owe nothing to what comes after it. It is stored with mu held.
	free atomic.Bool

	mu           sync.Mutex // guards what follows
	rate         float64    // bytes in a second; 0: no limit
	paused       bool       // bulk is held back
	bulk, urgent lane
	at           time.Time     // until when the lanes were paid
	held         time.Duration // for which bulk was held back, until at
	changed      chan struct{} // closed at the next change of rate or pause; nil: nobody waits
}

// lane is the frames of one kind, in the order in which they were booked.
type lane struct {
	booked float64 // bytes of all frames so far
	paid   float64 // bytes that time has paid for, booked and a burst at most
}

// limiterBurst is how much unused time counts: enough to ride over a late
// wake-up, too little to fill a switch's buffer.
const limiterBurst = 20 * time.Millisecond

// New returns a limiter to so many bytes a second; 0 is no limit.
func New(rate int64) *Limiter {
	l := &Limiter{rate: float64(rate)}
	l.free.Store(rate <= 0)
	return l
}

// Free says that nothing is limited or held back: frames may go without being booked, and
// nobody waits for them later.
func (l *Limiter) Free() bool { return l.free.Load() }

// Book books n bytes at the time now. What it returns is for Wait.
func (l *Limiter) Book(n uint64, urgent bool, now time.Time) (mark float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay(now)
	if urgent {
		mark = l.urgent.booked
		l.urgent.booked += float64(n)
		l.bulk.paid -= float64(n) // it takes the link from all bulk that waits
		return mark
	}
	mark = l.bulk.booked
	l.bulk.booked += float64(n)
	return mark
}

// Wait returns how long to wait, from now on, before what was booked may be sent, and a
// channel that is closed when it is worth asking again earlier. held says that no time is
// enough, as bulk is held back.
func (l *Limiter) Wait(mark float64, urgent bool, now time.Time) (wait time.Duration, held bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay(now)
	if l.paused && !urgent {
		return 0, true, l.change()
	}
	of := &l.bulk
	if urgent {
		of = &l.urgent
	}
	if l.rate <= 0 || of.paid >= mark {
		return 0, false, nil
	}
	return max(1, time.Duration((mark-of.paid)/l.rate*float64(time.Second))), false, l.change()
}

func (l *Limiter) change() <-chan struct{} {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// pay lets the time until now pay for what is booked. mu is held.
func (l *Limiter) pay(now time.Time) {
	passed := max(0, now.Sub(l.at).Seconds())
	if l.at.IsZero() {
		passed = limiterBurst.Seconds()
	}
	if l.paused {
		l.held += now.Sub(l.at)
	}
	l.at = now
	l.urgent.pay(l.rate, passed)
	if !l.paused {
		l.bulk.pay(l.rate, passed)
	}
}

// Held is for how long, until now, bulk has been held back.
func (l *Limiter) Held(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay(now)
	return l.held
}

func (l *lane) pay(rate, passed float64) {
	if rate <= 0 {
		l.paid = l.booked
		return
	}
	l.paid = min(l.paid+rate*passed, l.booked+rate*limiterBurst.Seconds())
}

// Set changes the rate, and whether bulk is held back; what is booked stays booked.
func (l *Limiter) Set(rate int64, paused bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay(now)
	l.rate, l.paused = float64(rate), paused
	l.free.Store(rate <= 0 && !paused)
	l.wake()
}

// wake has everybody that waits ask again. mu is held.
func (l *Limiter) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Nudge has everybody that waits ask again.
func (l *Limiter) Nudge() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wake()
}
