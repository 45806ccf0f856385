package nodecontroller

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"godwit.dev/godwit/cri"
)

// errBusy: the pod is being moved already.
var errBusy = errors.New("the pod takes part in a migration already")

// claim is a migration that has a part in a pod of this node.
type claim struct {
	migration string
	// arrival is set when it is the one by which the pod came: it is committed,
	// the pod runs here, and only its memory is not all in yet. Such a pod cannot
	// be moved on at once, but soon.
	arrival *incoming
}

// claimOn returns the claim on a sandbox, nil if there is none. A migration that
// waits for an arrival counts before the arrival: only one may wait. It is called
// with mu held.
func (d *Daemon) claimOn(sandbox string) *claim {
	for id, m := range d.outgoing {
		if m.pod.ID == sandbox {
			return &claim{migration: id}
		}
	}
	for id, r := range d.recovering {
		if r.Sandbox == sandbox {
			return &claim{migration: id}
		}
	}
	for id, m := range d.incoming {
		r := m.current()
		switch {
		case r.Sandbox != sandbox:
		case r.Stage == destinationCommitted:
			return &claim{migration: id, arrival: m}
		default:
			return &claim{migration: id}
		}
	}
	return nil
}

// refusal is why a migration of the pod cannot be accepted, nil if it can,
// if need be after a wait.
func (c *claim) refusal(pod cri.Pod) error {
	switch {
	case c != nil && c.arrival == nil:
		return fmt.Errorf("pod %s, migration %s: %w: %w", pod.FullName(), c.migration, errBusy, errdefs.ErrFailedPrecondition)
	case c != nil:
		return nil // what is in its way is judged after the wait
	}
	return obstruction(pod)
}

// obstruction is why a pod as it is cannot be moved, nil if nothing is known
// against it.
func obstruction(pod cri.Pod) error {
	if obstacle := pod.Obstacle(); obstacle != "" {
		return fmt.Errorf("pod %s: %s: %w", pod.FullName(), obstacle, cri.ErrImmovable)
	}
	return nil
}

// awaitMemory waits, in the phase Pending, until the migration by which the pod
// came has ended, and returns the pod as it is then.
func (m *outgoing) awaitMemory(ctx context.Context) (cri.Pod, error) {
	if m.arrival == nil {
		return m.pod, nil
	}
	m.tell("waiting", fmt.Sprintf("waits until migration %s has all its memory in", m.arrival.id))
	select {
	case <-m.arrival.done:
	case <-ctx.Done():
	}
	if ctx.Err() != nil { // the daemon's end is the arrival's too
		return cri.Pod{}, context.Cause(ctx)
	}
	pod, err := m.d.cri.Find(ctx, m.pod.ID)
	if err != nil {
		return cri.Pod{}, err
	}
	if err := obstruction(pod); err != nil {
		return cri.Pod{}, err
	}
	_, err = m.d.judgeProcesses(ctx, pod, m.request)
	return pod, err
}
