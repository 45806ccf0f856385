package nodecontroller

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"godwit.dev/godwit/nodecontroller/spool"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// Where kubelet makes the pod, its file trees come to be when there is little time left:
// the last of its starts lasts until the commit, and kubelet gives it two minutes. So
// files go into a spool on this node's disk, beside the memory that goes into the store,
// and when the trees are there, only what is here already has to be put into them.

// spoolDir has, below the state directory, the spools by migration.
const spoolDir = "spool"

func (m *incoming) spoolPath() string {
	return filepath.Join(m.d.config.StateDir, spoolDir, m.id)
}

// newSpool makes the place for the files of a pod that is not here yet.
func (m *incoming) newSpool() (*spool.Spool, error) {
	return spool.Create(m.spoolPath(), m.spooledTrees())
}

// spooledTrees are the channels of all file trees that a source may send.
func (m *incoming) spooledTrees() []uint32 {
	return append(m.requiredTrees(), shimv1.Channel(0, shimv1.TreeShm))
}

// requiredTrees are the channels of the file trees that every source sends.
func (m *incoming) requiredTrees() []uint32 {
	var channels []uint32
	for i := range m.description.Containers {
		channels = append(channels, shimv1.Channel(uint16(i), shimv1.TreeRootfs))
	}
	for i := range m.volumes {
		channels = append(channels, shimv1.Channel(uint16(i), shimv1.TreeVolume))
	}
	return channels
}

// drainSpool brings the pod's file trees to where the source's were when they were sent;
// what is still to come goes into them. The spool is gone after that.
func (m *incoming) drainSpool(ctx context.Context) error {
	m.say("putting the files that have come into the pod's file systems")
	begun := time.Now()
	if err := m.receiver.drain(ctx, m.spooledTrees()); err != nil {
		return err
	}
	m.log.Info("the pod has its files", "took", time.Since(begun))
	return m.removeSpool()
}

func (m *incoming) removeSpool() error {
	if err := os.RemoveAll(m.spoolPath()); err != nil {
		return fmt.Errorf("spool of files: %w", err)
	}
	return nil
}
