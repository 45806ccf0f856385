package wire

import (
	"sync"
	"time"
)

// activity is the time in which a session had something to send: calls on its streams,
// and frames that the peer has not stored yet. Between the two, and between calls, nothing
// can be said of the link. A nil one counts nothing.
type activity struct {
	mu    sync.Mutex // guards what follows
	under int        // what is going on
	since time.Time  // when that began, while there is something
	past  time.Duration
}

func (a *activity) begin(now time.Time) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.under++; a.under == 1 {
		a.since = now
	}
}

func (a *activity) end(now time.Time) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.under--; a.under == 0 {
		a.past += max(0, now.Sub(a.since))
	}
}

// until is the time until now.
func (a *activity) until(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.under == 0 {
		return a.past
	}
	return a.past + max(0, now.Sub(a.since))
}
