package shim

import "sync"

// broadcast wakes everybody who watches a migration when something changed.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{} // closed and replaced at each signal, guarded by mu
}

func newBroadcast() *broadcast { return &broadcast{ch: make(chan struct{})} }

// wait returns a channel that is closed at the next signal.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *broadcast) signal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}
