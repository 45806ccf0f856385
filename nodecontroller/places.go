package nodecontroller

import (
	"context"
	"runtime"

	"godwit.dev/godwit/nodecontroller/queue"
)

// DefaultMoves is how many pods leave a node at a time unless its configuration says
// otherwise: one for each two of its processors, three at most. What a pod's memory is
// copied with is missing to another that is frozen: of ten pods that left two
// processors three at a time the worst stood still for 4.8 times as long as one alone,
// one at a time for 1.3 times.
func DefaultMoves(processors int) int { return max(1, min(3, processors/2)) }

// Places is how many pods leave this node at a time, 0 without limit.
func (c *Config) Places() int {
	switch {
	case c.Moves != 0:
		return max(0, c.Moves)
	case c.Kubernetes.Moves != 0:
		return c.Kubernetes.Moves
	}
	return DefaultMoves(runtime.NumCPU())
}

// takePlace waits, in the phase Pending, for one of the node's places.
func (m *outgoing) takePlace(ctx context.Context) error {
	e := queue.Entry{ID: m.id, Priority: m.request.Priority, Asked: m.started}
	err := m.d.places.Take(ctx, e, func(position int) {
		m.tell("queued", queue.Message(position, m.d.config.NodeName))
	})
	m.placed = err == nil
	return err
}

// givePlace gives the place back, if the migration has one.
func (m *outgoing) givePlace() {
	if m.placed {
		m.d.places.Give()
	}
}
