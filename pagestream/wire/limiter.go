package wire

import (
	"sync"
	"time"
)

// limiter is a token bucket that all streams of a session share. It may run
// into debt by one frame, which the next ones wait for: a frame is never
// split, and with few bytes per second each waits its turn.
type limiter struct {
	mu    sync.Mutex // guards what follows
	rate  float64    // bytes in a second; 0: no limit
	free  time.Time  // when the bucket's debt is paid
	burst time.Duration
}

// limiterBurst is how much unused time counts: enough to ride over a late
// wake-up, too little to fill a switch's buffer.
const limiterBurst = 20 * time.Millisecond

func newLimiter(rate int64) *limiter {
	return &limiter{rate: float64(rate), burst: limiterBurst}
}

// take books n bytes at the time now and returns how long to wait before
// they may be sent.
func (l *limiter) take(n uint64, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate <= 0 {
		return 0
	}
	if earliest := now.Add(-l.burst); l.free.Before(earliest) {
		l.free = earliest
	}
	wait := l.free.Sub(now)
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	return max(wait, 0)
}

// setRate changes the limit; what is booked stays booked.
func (l *limiter) setRate(rate int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = float64(rate)
}
