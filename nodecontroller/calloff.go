package nodecontroller

import (
	"fmt"

	"github.com/containerd/errdefs"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// CallOff tells this node, a destination, that its cluster has not agreed to a
// migration's commit and never will: its source cannot have committed, so that what is
// held here in doubt is dropped, though the source is lost. It returns an error that
// wraps errdefs.ErrFailedPrecondition if nothing is in doubt, and errdefs.ErrNotFound
// if there is no such migration.
func (d *Daemon) CallOff(migration string) error {
	d.mu.Lock()
	m := d.incoming[migration]
	d.mu.Unlock()
	if m == nil {
		return fmt.Errorf("node %s is not the destination of a migration %q: %w", d.config.NodeName, migration, errdefs.ErrNotFound)
	}
	return m.resolve(peerv1.Outcome_OUTCOME_ABORTED)
}

// Unwant tells this node, a destination, that its cluster will not keep the pod, and why: the source, which hears of it with
// the destination's next word, at the latest when it asks for that before it decides, breaks the migration off. What is held
// here stays until the source says so, as it may have decided a moment ago. Of a migration that is committed or not
// known here it is no news.
func (d *Daemon) Unwant(migration string, why error) {
	d.mu.Lock()
	m := d.incoming[migration]
	d.mu.Unlock()
	if m == nil {
		return
	}
	if s := m.stage(); s != destinationCommitted && s != destinationAwaiting {
		m.fail(why)
	}
}

// Dropped says whether this node, as a destination, has dropped a migration's pod without having run it: its source cannot
// commit it, and has not.
func (d *Daemon) Dropped(migration string) bool {
	_, dropped := d.dropped(migration)
	return dropped
}

func (d *Daemon) dropped(migration string) (*nodev1.Migration, bool) {
	m, known := d.Migration(migration)
	return m, known && m.Role == "destination" && m.Phase == nodev1.Phase_PHASE_FAILED
}
