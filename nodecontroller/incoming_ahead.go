package nodecontroller

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// ahead is how restores that were started ahead are, all of them.
type ahead struct {
	// fillsTmpfs: file systems in memory are filled in by the shim, tmpfsFilled: they hold already what the source has said; inNamespaces: they
	// work in the pod's IPC and UTS namespaces.
	fillsTmpfs, tmpfsFilled, inNamespaces bool
}

// approach has the shim start all restores, which then wait for their images. Its error is
// no failure of the migration: the restores are then done at once.
func (m *incoming) approach(ctx context.Context, r *peerv1.ApproachRequest) (ahead, error) {
	requests, err := m.approachRequests(r)
	if err != nil {
		return ahead{}, err
	}
	shim, err := m.d.dialShim(ctx, m.made.Sandbox)
	if err != nil {
		return ahead{}, err
	}
	defer shim.close()
	ctx, cancel := context.WithTimeout(ctx, approachLimit)
	defer cancel()
	got := make([]*shimv1.ApproachResponse, len(requests))
	var all errgroup.Group // one that fails is no reason to do without the others
	// What may be wrong with the store, seal says.
	all.Go(func() error { _ = m.store.Settle(); return nil })
	for i, req := range requests {
		all.Go(func() (err error) {
			if got[i], err = shim.Approach(ctx, req); err != nil {
				return fmt.Errorf("container %s: %w", m.description.Containers[i].Name(), plain(err))
			}
			return nil
		})
	}
	if err = all.Wait(); err != nil {
		return ahead{}, err
	}
	m.placeImages(got)
	a := ahead{fillsTmpfs: true, tmpfsFilled: true, inNamespaces: true}
	for _, g := range got {
		a.fillsTmpfs = a.fillsTmpfs && g.FillsTmpfs
		a.tmpfsFilled = a.tmpfsFilled && g.TmpfsFilled
		a.inNamespaces = a.inNamespaces && g.InNamespaces
	}
	return a, nil
}

// approachRequests are what the shim is asked for each container.
func (m *incoming) approachRequests(r *peerv1.ApproachRequest) ([]*shimv1.ApproachRequest, error) {
	requests := make([]*shimv1.ApproachRequest, len(m.made.Containers))
	if len(r.Descriptors) != len(requests) {
		return nil, fmt.Errorf("%d descriptors of %d containers", len(r.Descriptors), len(requests))
	}
	for i, container := range m.made.Containers {
		q := &shimv1.ApproachRequest{Restore: m.restoreRequest(i, container), Descriptors: r.Descriptors[i]}
		if len(r.Tmpfs) == len(requests) {
			q.Tmpfs = r.Tmpfs[i]
		}
		if q.Tmpfs != "" && len(r.TmpfsContent) == len(requests) {
			q.TmpfsContent = r.TmpfsContent[i]
		}
		requests[i] = q
	}
	return requests, nil
}

// placeImages has images arrive where CRIU waits for them. Where that cannot be, the shim brings them there.
func (m *incoming) placeImages(ready []*shimv1.ApproachResponse) {
	m.inPlace = make([]bool, len(ready))
	for i, r := range ready {
		if r.WaitsIn == "" {
			continue
		}
		if filepath.Dir(r.WaitsIn) != filepath.Clean(m.storeDir) {
			m.d.log.Warn("the shim waits for images in a place of its own", "migration", m.id, "directory", r.WaitsIn)
			continue
		}
		if err := m.receiver.moveImages(i, r.WaitsIn); err != nil {
			m.d.log.Warn("images are brought to CRIU when all have come", "migration", m.id, "error", err)
			continue
		}
		m.inPlace[i] = true
	}
}
