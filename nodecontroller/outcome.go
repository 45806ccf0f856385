package nodecontroller

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// A node that says it knows nothing of a migration says a lot: to a destination, that the source runs on; to a source, that the
// destination has done everything. So the journal is asked too, as long as it has a record nothing is over: one that cannot be read, or
// of which nobody could see the end.

// outcome is what this node, as a source, says of a migration: OUTCOME_UNSPECIFIED, which leaves its destination in doubt, if that cannot be said.
func (d *Daemon) outcome(id, asking string) peerv1.Outcome {
	d.mu.Lock()
	m := d.outgoing[id]
	r, known := d.recovering[id]
	d.mu.Unlock()
	if m != nil && m.request.To == asking {
		return m.outcome()
	}
	if !known {
		var err error
		r, err = d.journal.read(id)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return peerv1.Outcome_OUTCOME_ABORTED
		case err != nil:
			d.log.Error("a migration's record cannot be read; its destination must wait", "migration", id, "peer", asking, "error", err)
			return peerv1.Outcome_OUTCOME_UNSPECIFIED
		}
	}
	switch {
	case r.Peer != asking, !r.Stage.source():
		return peerv1.Outcome_OUTCOME_ABORTED
	case r.Stage == sourceCommitted:
		return peerv1.Outcome_OUTCOME_COMMITTED
	}
	return peerv1.Outcome_OUTCOME_PENDING
}

// unserved is what a source hears of a migration that no part of the daemon is at: an error that wraps errdefs.ErrNotFound if nothing of it
// is left here, errdefs.ErrUnavailable if that cannot be said.
func (d *Daemon) unserved(id, source string) error {
	r, err := d.journal.read(id)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && (r.Stage.source() || r.Peer != source):
		return fmt.Errorf("node %s has no migration %q from %s: %w", d.config.NodeName, id, source, errdefs.ErrNotFound)
	case err != nil:
		return fmt.Errorf("node %s cannot read its record of migration %s, see its log: %w: %w", d.config.NodeName, id, errdefs.ErrUnavailable, err)
	}
	return fmt.Errorf("node %s leaves migration %s, at %s, to its next daemon: %w", d.config.NodeName, id, r.Stage, errdefs.ErrUnavailable)
}
