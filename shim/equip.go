package shim

import (
	"context"
	"errors"
	"fmt"
	"os"

	"godwit.dev/godwit/shim/criu"
)

// equipFirst is equip for the restore that is ordered. After an error the parked start
// stops the fault server.
func (d *destination) equipFirst(ctx context.Context, a *arrival) (*attempt, error) {
	fill, err := d.startFill(ctx, a)
	if err != nil {
		return nil, err
	}
	number := 1
	if t := d.latest(a); t != nil { // it came to nothing
		number = t.number + 1
	}
	return d.equip(ctx, a, number, fill)
}

// equip sets everything that an attempt at a container's restore needs: the link to its
// images, the relay, and what the fault server serves.
func (d *destination) equip(ctx context.Context, a *arrival, number int, fill *fill) (*attempt, error) {
	t, err := d.ready(ctx, a, number, fill, nil)
	if err != nil {
		return nil, err
	}
	if err := t.fillTmpfs(a.request.GetImagesDir()); err != nil {
		t.restore.Close()
		t.release()
		return nil, err
	}
	fill.serve(d.orderOf(a.request, number))
	return t, nil
}

// ready is equip without what the fault server serves; early is for images that have yet
// to come.
func (d *destination) ready(ctx context.Context, a *arrival, number int, fill *fill, early *earlyImages) (*attempt, error) {
	c, images := a.container, a.request.GetImagesDir()
	if early != nil {
		images = early.dir
	}
	link := checkpointLink(c)
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old link to images: %w", err)
	}
	if err := os.Symlink(images, link); err != nil {
		return nil, fmt.Errorf("link images: %w", err)
	}
	dir, err := workDir(c, "restore")
	if err != nil {
		return nil, err
	}
	work, err := restoreWorkDir(c)
	if err != nil {
		return nil, err
	}
	own, err := a.makeTmpfs(dir)
	if err != nil {
		return nil, err
	}
	t := newAttempt(number, fill)
	t.early, t.tmpfs = early, own
	if early != nil {
		if t.old, err = makeOldRoot(c.rootfs()); err != nil {
			d.log.Warn("CRIU makes a directory of its own in the container's root file system", "container", c.id, "error", err)
		}
	}
	t.restore, err = criu.PrepareRestore(ctx, criu.RestoreConfig{
		ID: c.id, Run: runReaped, Config: c.criuConfig(), Work: work, Lazy: true, External: externalAt(own), Hooks: c.hooks, OwnYard: c.ownsYard(images, work),
	})
	if err != nil {
		t.release()
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.ended.Err() != nil {
		t.restore.Close()
		t.release()
		return nil, context.Cause(a.ended)
	}
	a.attempt, a.fill = t, fill
	return t, nil
}
