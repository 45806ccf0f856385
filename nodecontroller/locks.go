package nodecontroller

import (
	"context"
	"errors"
	"fmt"

	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/nodecontroller/processcheck"
)

// errLocked is why a frozen pod is let go that holds a lock which its restore would wait
// for, for as long as the pod is frozen.
var errLocked = errors.New("at the moment of the freeze the pod held a lock of a file on a volume that both nodes see: try again")

// lockable are the pod's containers that may hold such locks. A late pod's are free by
// the time that it is restored.
func (m *outgoing) lockable(ctx context.Context) ([]processcheck.Container, error) {
	if m.request.LatePod {
		return nil, nil
	}
	pod, err := m.d.cri.Find(ctx, m.pod.ID)
	if err != nil {
		return nil, err
	}
	all, err := m.d.containers(ctx, pod)
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", pod.FullName(), err)
	}
	var some []processcheck.Container
	for _, c := range all {
		if len(c.Storage) > 0 {
			some = append(some, c)
		}
	}
	return some, nil
}

// breakOffIfLocked looks at the frozen containers, while the destination restores them.
func (m *outgoing) breakOffIfLocked(ctx context.Context, containers []processcheck.Container) {
	found, err := processcheck.Locks(ctx, containers)
	if err != nil {
		m.log.Warn("whether the frozen pod holds locks of files on volumes is not known", "error", err)
	}
	if len(found) > 0 {
		_ = m.abort(fmt.Errorf("%w: %s", errLocked, obstacle.List(found)))
	}
}
