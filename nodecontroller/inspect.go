package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// NodeName is the node that this daemon is of.
func (d *Daemon) NodeName() string { return d.config.NodeName }

// Migration is how a migration stands in which this node has a part, or had one
// that this daemon remembers; of two parts the source's. A node that does not know
// it has nothing of it.
func (d *Daemon) Migration(id string) (*nodev1.Migration, bool) {
	var found *nodev1.Migration
	for _, m := range d.migrations() {
		if m.Id == id && (found == nil || found.Role != "source") {
			found = m
		}
	}
	return found, found != nil
}

// PinnedImages are, by container, the names under which kubelet finds the very
// images of a pod of this node at a destination that has been prepared, whether a
// registry can be reached or not. Tags may mean something else there, or nothing.
func (d *Daemon) PinnedImages(ctx context.Context, pod string) (map[string]string, error) {
	p, err := d.cri.Find(ctx, pod)
	if err != nil {
		return nil, err
	}
	description, err := d.cri.Describe(ctx, p)
	if err != nil {
		return nil, err
	}
	pinned := make(map[string]string, len(description.Containers))
	for _, c := range description.Containers {
		i, err := d.cri.Image(ctx, c.Image)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Name(), err)
		}
		pinned[c.Name()] = i.Pinned()
	}
	return pinned, nil
}

// Obstacles are why a pod of this node cannot be moved, as far as can be told
// before; empty if nothing is known against it. The pod is namespace/name or the
// sandbox's id; an error that wraps cri.ErrNoPod says that it is not here.
func (d *Daemon) Obstacles(ctx context.Context, pod string) ([]string, error) {
	p, err := d.cri.Find(ctx, pod)
	if err != nil {
		return nil, err
	}
	var obstacles []string
	if o := p.Obstacle(); o != "" {
		obstacles = append(obstacles, o)
	}
	d.mu.Lock()
	c := d.claimOn(p.ID)
	d.mu.Unlock()
	if c != nil && c.arrival == nil {
		obstacles = append(obstacles, "it takes part in migration "+c.migration)
	}
	if len(p.Running()) == 0 {
		return obstacles, nil // there is nothing to describe
	}
	switch _, err := d.cri.Describe(ctx, p); {
	case errors.Is(err, cri.ErrImmovable):
		obstacles = append(obstacles, strings.TrimSuffix(err.Error(), ": "+cri.ErrImmovable.Error()))
	case err != nil:
		return nil, err
	}
	return obstacles, nil
}

// Idle says whether this node has no part in any migration now.
func (d *Daemon) Idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.outgoing)+len(d.incoming)+len(d.recovering) == 0
}

// Config is the daemon's configuration, which must not be changed.
func (d *Daemon) Config() *Config { return d.config }
