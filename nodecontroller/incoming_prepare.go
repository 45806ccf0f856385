package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/cri"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/pagestream/store"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// annotation names the migration that a sandbox and its containers came with.
const annotation = shimv1.Annotation

// prepare makes the store and gets the images; it returns the ids of those that
// the source must send.
func (m *incoming) prepare(ctx context.Context) ([]string, error) {
	s, err := store.Create(m.storeDir, store.Options{Limit: int64(m.memory)})
	if err != nil {
		return nil, err
	}
	m.store = s
	m.receiver = newReceiver(s, len(m.description.Containers), int64(m.memory))
	if m.kubelet {
		if m.receiver.spool, err = m.newSpool(); err != nil {
			return nil, err
		}
	}
	if err := m.receiver.openImages(); err != nil {
		return nil, err
	}
	var missing []string
	for _, i := range m.images {
		have, err := m.getImage(ctx, i)
		if err != nil {
			return nil, err
		}
		if !have {
			missing = append(missing, i.ID)
		}
	}
	if m.kubelet {
		return missing, m.advance(destinationPrepared, throughCrash)
	}
	return missing, nil
}

// making is the stage in which images come and the pod is made.
func (m *incoming) making() stage {
	if m.kubelet {
		return destinationPrepared
	}
	return destinationPreparing
}

// getImage sees whether the node has an image, or can pull it.
func (m *incoming) getImage(ctx context.Context, i cri.Image) (bool, error) {
	_, err := m.d.cri.Image(ctx, i.ID)
	switch {
	case err == nil && m.kubelet:
		return true, m.d.cri.NameImage(ctx, i) // kubelet knows images by name only
	case err == nil:
		return true, nil
	case !errdefs.IsNotFound(err):
		return false, err
	case m.d.config.PullTimeout <= 0 || len(i.RepoDigests) == 0:
		return false, nil
	}
	// Noted before: an abort in between must find it.
	if err := m.note(func(r *record) { r.Images = append(r.Images, i.ID) }); err != nil {
		return false, err
	}
	pctx, cancel := context.WithTimeout(ctx, time.Duration(m.d.config.PullTimeout))
	defer cancel()
	if err := m.d.cri.Pull(pctx, i); err != nil {
		m.log.Info("image not pulled, the source sends it", "image", i.ID, "error", err)
		return false, ctx.Err()
	}
	return true, nil
}

// create has the pod made and its containers parked.
func (m *incoming) create(ctx context.Context) (*peerv1.CreateResponse, error) {
	getPod := m.makePod
	if m.kubelet {
		getPod = m.awaitPod
	}
	if err := getPod(ctx); err != nil {
		return nil, err
	}
	if m.kubelet {
		if err := m.drainSpool(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.advance(destinationParked, throughCrash); err != nil {
		return nil, err
	}
	m.say("containers are parked, memory comes in")
	return &peerv1.CreateResponse{Sandbox: m.made.Sandbox, PodIp: m.podIP, Containers: m.made.Containers}, nil
}

// makePod makes the pod and parks its containers.
func (m *incoming) makePod(ctx context.Context) error {
	m.say("making sandbox and containers")
	node := cri.Node{CgroupParent: m.d.config.PodCgroupParent, LogRoot: m.d.config.LogRoot}
	made, err := m.d.cri.Recreate(ctx, m.description, node, map[string]string{annotation: m.id})
	if err := errors.Join(err, m.noteMade(made)); err != nil {
		return err
	}
	if m.podIP, err = m.d.cri.IP(ctx, made.Sandbox); err != nil {
		return err
	}
	if m.starts, err = m.d.startContainers(made.Containers); m.starts != nil {
		m.starts.whenOneEnds(func(err error) { m.startEnded(err) })
	}
	if err != nil {
		return err
	}
	return m.park(ctx)
}

// noteMade notes what there is of the pod.
func (m *incoming) noteMade(made cri.Made) error {
	m.made = made
	return m.note(func(r *record) { r.Sandbox, r.Containers = made.Sandbox, made.Containers })
}

// startEnded hears that a start came to an end. Before the commit that is a failure.
func (m *incoming) startEnded(err error) {
	if m.stage() == destinationCommitted {
		if err != nil {
			m.log.Error("a container's start failed after the commit", "error", err)
		}
		return
	}
	if err == nil {
		err = errors.New("it ran: the shim did not restore it")
	}
	m.fail(fmt.Errorf("a container did not wait for its restore: %w", err))
}

// park waits until every container's start has reached the shim, and has the
// receiver write into their root file systems from then on.
func (m *incoming) park(parent context.Context) error {
	shim, err := m.d.dialShim(parent, m.made.Sandbox)
	if err != nil {
		return err
	}
	defer shim.close()
	group, ctx := errgroup.WithContext(parent)
	for i, container := range m.made.Containers {
		group.Go(func() error {
			r, err := shim.WaitParked(ctx, &shimv1.WaitParkedRequest{Migration: m.id, Container: container})
			if err != nil {
				return fmt.Errorf("container %s is not parked: %w", m.description.Containers[i].Name(), plain(err))
			}
			return m.receiver.openRootfs(i, r.Rootfs)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return m.openSharedMemory(parent)
}

// openSharedMemory has the receiver write into the sandbox's /dev/shm.
func (m *incoming) openSharedMemory(ctx context.Context) error {
	for _, container := range m.made.Containers {
		dir, err := m.d.cri.SharedMemory(ctx, container)
		if err != nil {
			return err
		}
		if dir != "" {
			return m.receiver.openSharedMemory(dir)
		}
	}
	return nil
}

// storePath is where the store of a migration is mounted.
func (d *Daemon) storePath(migration string) string {
	return filepath.Join(d.config.StateDir, "store", migration)
}
