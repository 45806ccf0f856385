package nodecontroller

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// What a destination has of a pod that is to run there is in its memory: processes that are held, a store. A node that is started again has
// none of it, and may have lost the record too, which is not always on the disk when the node votes. To a source that tells it of its decision
// it looks like one that has done everything and forgotten it. So nodes name the time since they were started, and a source says of which
// time it speaks.

// bootName is a file in /run, which ends with what it is a name for. The kernel's boot_id would do on a machine, not for nodes that are
// containers.
const bootName = "boot"

// bootOf is this node's name for the time since it was started, given now if it has none.
func bootOf(run string) (string, error) {
	name := filepath.Join(run, bootName)
	b, err := os.ReadFile(name)
	if boot := strings.TrimSpace(string(b)); err == nil && boot != "" {
		return boot, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("when this node was started: %w", err)
	}
	boot := rand.Text()
	if err := replace(run, bootName, []byte(boot), throughCrash); err != nil {
		return "", fmt.Errorf("when this node was started: %w", err)
	}
	return boot, nil
}

// lostWith is why a source that tells a decision of a migration which is not known here hears that its pod is lost; nil if it was carried
// through, for all that is known.
func (d *Daemon) lostWith(r *peerv1.CommitRequest, source string) error {
	if gone, dropped := d.dropped(r.Migration); dropped && gone.From == source {
		return fmt.Errorf("node %s has dropped the pod of migration %s: %s: %w", d.config.NodeName, r.Migration, gone.Detail, errdefs.ErrDataLoss)
	}
	if r.Boot == "" || r.Boot == d.journal.boot {
		return nil
	}
	return fmt.Errorf("node %s was started again after it had taken the pod of migration %s in, and has nothing of it: %w",
		d.config.NodeName, r.Migration, errdefs.ErrDataLoss)
}
