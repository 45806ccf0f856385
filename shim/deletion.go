package shim

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// endCommitted is told that somebody wants to end a container, which is what a committed pod waits for, and returns when its processes have been
// killed, or ctx ends: who killed them sooner would have them end while their node has better to do. While pages of its frozen processes are
// missing at the destination it is refused, with an error that says so.
func (m *migrations) endCommitted(ctx context.Context, container string) error {
	m.mu.Lock()
	s := m.source
	m.mu.Unlock()
	if s == nil || !s.committed() {
		return nil
	}
	s.remove()
	if !s.isFetchedFrom() {
		select {
		case <-s.killed:
		case <-ctx.Done():
		}
		return nil
	}
	return errgrpc.ToGRPCf(errdefs.ErrUnavailable, "container %s: the pod has moved to node %s with migration %s, which still fetches pages of it; try again later",
		container, s.request.GetPeerName(), s.id)
}

// leaveLimit is how long a container's deletion waits for what the migration has in its bundle to be cleared away: what is mounted there
// would stay, and with it the bundle.
const leaveLimit = 5 * time.Second

// awaitLeft returns when nothing of a committed migration is left here, which may not be so yet when the pod's processes have ended.
func (m *migrations) awaitLeft(ctx context.Context) {
	m.mu.Lock()
	s := m.source
	m.mu.Unlock()
	if s == nil || !s.committed() || s.isFetchedFrom() {
		return
	}
	s.remove()
	limit := time.NewTimer(leaveLimit)
	defer limit.Stop()
	select {
	case <-s.undone:
	case <-ctx.Done():
	case <-limit.C:
		s.log.Warn("the pod is deleted before all of the migration is cleared away")
	}
}
