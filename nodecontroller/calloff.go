package nodecontroller

import (
	"fmt"

	"github.com/containerd/errdefs"

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
