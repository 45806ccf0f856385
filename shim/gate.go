package shim

import (
	"context"
	"sync"
	"time"
)

// gateLimit is how long a container that could run waits for the others of its pod: one may hang, and is restored again then.
const gateLimit = 250 * time.Millisecond

// gate is where the containers of a committed pod wait for each other before they run. What runs takes processors from those that do not yet, its
// faults do, and so does runc, which ends with the restore; and a pod's containers begin in one moment.
type gate struct {
	mu      sync.Mutex
	awaited int // who has yet to come; guarded by mu
	open    chan struct{}
	limit   time.Duration
}

func newGate(containers int) *gate {
	return &gate{awaited: containers, open: make(chan struct{}), limit: gateLimit}
}

// arrive says that a container could run, or will not in this attempt. Each does once. A nil gate is open.
func (g *gate) arrive() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.awaited--; g.awaited == 0 {
		close(g.open)
	}
}

// pass returns when all have arrived, or do not for the limit. It fails with the cause of ctx if that ends.
func (g *gate) pass(ctx context.Context) error {
	if g == nil {
		return nil
	}
	limit := time.NewTimer(g.limit)
	defer limit.Stop()
	select {
	case <-g.open:
	case <-limit.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
