package nodecontroller

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// turns has the cutovers of a node's pods come one after the other, in the order in
// which they asked. From its freeze to its commit a pod needs the node, the link and the
// destination for itself: of ten that were frozen at the same moment each would stand
// still for as long as all of them take. Who waits for its turn runs, and is copied on.
type turns struct {
	mu    sync.Mutex
	taken bool            // guarded by mu
	queue []chan struct{} // of those that wait, closed for whose turn it is; guarded by mu
}

// take waits for a turn, which give ends; waiting is called if there is one to wait for.
// The error is ctx's cause.
func (t *turns) take(ctx context.Context, waiting func()) error {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.queue = append(t.queue, mine)
	t.mu.Unlock()
	waiting()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
		t.leave(mine)
		return context.Cause(ctx)
	}
}

// leave takes who waited out of the queue; if it has got the turn just now the next has it.
func (t *turns) leave(mine chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.queue, mine); i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
		return
	}
	t.next()
}

// give ends the turn that was taken.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next()
}

// next passes the turn on, with mu held.
func (t *turns) next() {
	if len(t.queue) == 0 {
		t.taken = false
		return
	}
	close(t.queue[0])
	t.queue = t.queue[1:]
}

// inTurn cuts over and commits when it is this pod's turn.
func (m *outgoing) inTurn(ctx context.Context) error {
	err := m.d.cutovers.take(m.undecided, func() {
		m.tell("turn", "another pod of this node is being cut over; this one runs on until it is its turn")
	})
	if err != nil {
		return m.fail(fmt.Errorf("wait for the turn to be cut over: %w", err))
	}
	defer m.d.cutovers.give()
	// Until the pod runs again neither its last pages nor what is said about them waits
	// for the bulk of others.
	m.use.urgent(true)
	err = m.cutOver()
	if err == nil {
		err = m.commit(ctx)
	}
	m.use.turnEnds(err == nil, m.current().Left)
	return err
}
