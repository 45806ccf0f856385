package wire

import (
	"fmt"
	"sync"
	"time"
)

// flow counts the bytes of a stream's frames: sent by us, received and stored
// by the peer. It bounds what is under way and tells a slow peer from a hung
// one.
type flow struct {
	window uint64
	active *activity // told while something is under way

	mu       sync.Mutex // guards what follows
	sent     uint64
	received uint64
	stored   uint64
	since    time.Time     // of the last progress, or when waiting began
	changed  chan struct{} // closed at the next acknowledgement; nil: nobody waits
}

// add counts a frame that is being sent and returns the sum so far.
func (f *flow) add(n uint64, now time.Time) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sent == f.stored {
		f.since = now
		f.active.begin(now)
	}
	f.sent += n
	return f.sent
}

// ack takes an acknowledgement. One that goes back, or ahead of what was
// sent, is an error that wraps ErrProtocol.
func (f *flow) ack(stored, received uint64, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if stored < f.stored || received < f.received || stored > received || received > f.sent {
		return fmt.Errorf("acknowledgement of %d stored and %d received after %d and %d, with %d sent: %w",
			stored, received, f.stored, f.received, f.sent, ErrProtocol)
	}
	if stored != f.stored || received != f.received {
		f.since = now
	}
	if f.stored != f.sent && stored == f.sent {
		f.active.end(now)
	}
	f.stored, f.received = stored, received
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
	return nil
}

// room returns nil if n more bytes fit into the window, or nothing is under
// way; else a channel that is closed when it is worth asking again.
func (f *flow) room(n uint64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sent == f.stored || f.sent-f.stored+n <= f.window {
		return nil
	}
	return f.wait()
}

// reached returns nil if everything up to mark is stored; else a channel that
// is closed when it is worth asking again.
func (f *flow) reached(mark uint64) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stored >= mark {
		return nil
	}
	return f.wait()
}

func (f *flow) wait() <-chan struct{} {
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// stuck returns for how long the peer has made no progress, and how many
// bytes it owes; 0, 0 if it owes none.
func (f *flow) stuck(now time.Time) (time.Duration, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sent == f.stored {
		return 0, 0
	}
	return now.Sub(f.since), f.sent - f.stored
}

// delivered is how many bytes the peer has stored.
func (f *flow) delivered() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stored
}

// end is the sum of bytes of all frames so far.
func (f *flow) end() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}

// idle says that the peer has stored everything.
func (f *flow) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent == f.stored
}
