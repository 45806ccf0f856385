package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// A restore can be started before there is anything to restore. CRIU, and runc before
// it, do much that no image has a part in: they start, find out what the kernel can do,
// make the container's cgroups and mount points, join its namespaces. The first image that
// CRIU reads is inventory.img; it is shown a directory in which that is a FIFO, and waits
// there. When it does, the directory is emptied, and may become that in which the images arrive; if not, they are linked
// into it when they have come. Then the inventory is written into the FIFO.
//
// Nothing depends on it: a restore that was started ahead and comes to nothing before all
// processes are there is cleared away, and the container restored as if nothing had been
// tried.

// Files in CRIU's images that runc, and CRIU, read first.
const (
	inventoryImage  = "inventory.img"
	descriptorsFile = "descriptors.json"
)

const (
	// maxInventory is as much as fits into a pipe at once: nobody waits for its reader.
	maxInventory = 16 << 10
	// maxDescriptors bounds what a peer says of a container's standard files, bytes.
	maxDescriptors = 16 << 10
	// standardFiles is how many of them runc looks at.
	standardFiles = 3
)

// errNotEarly: the container has to be restored from the beginning.
var errNotEarly = errors.New("the restore that was started ahead came to nothing")

// earlyImages are the images of a restore that waits for them.
type earlyImages struct {
	dir         string
	descriptors []byte
	fifo        *os.File // named only, neither read nor written
	// opened is closed when CRIU has opened the inventory, or will not; inventory, set
	// before, is the other end, nil in the latter case.
	opened    chan struct{}
	inventory *os.File
	// cleared is closed when nothing is left of the restore, after it has come to
	// nothing; or clearErr, set before, says what is left.
	cleared  chan struct{}
	clearErr error
}

// makeEarlyImages makes the directory, in the store, whose files can be linked there.
func makeEarlyImages(r *shimv1.RestoreRequest, descriptors string) (*earlyImages, error) {
	if err := checkDescriptors(descriptors); err != nil {
		return nil, err
	}
	e := &earlyImages{
		dir:         filepath.Join(r.GetStoreDir(), fmt.Sprintf("early-%d", r.GetIndex())),
		descriptors: []byte(descriptors), opened: make(chan struct{}), cleared: make(chan struct{}),
	}
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory for images to come: %w", err)
	}
	err := os.WriteFile(filepath.Join(e.dir, descriptorsFile), e.descriptors, 0o600)
	path := filepath.Join(e.dir, inventoryImage)
	if err == nil {
		err = unix.Mkfifo(path, 0o600)
	}
	fd := -1
	if err == nil {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		e.remove()
		return nil, fmt.Errorf("images to come: %w", err)
	}
	e.fifo = os.NewFile(uintptr(fd), path)
	return e, nil
}

// checkDescriptors sees that a peer's word is what runc would write: a list of names, one
// for each standard file.
func checkDescriptors(text string) error {
	var names []string
	if len(text) > maxDescriptors {
		return fmt.Errorf("descriptors of a container: %d bytes are more than %d", len(text), maxDescriptors)
	}
	if err := json.Unmarshal([]byte(text), &names); err != nil {
		return fmt.Errorf("descriptors of a container: %w", err)
	}
	if len(names) != standardFiles {
		return fmt.Errorf("descriptors of a container: %d, not %d", len(names), standardFiles)
	}
	return nil
}

// await opens the FIFO, which takes until CRIU has, or until over is done.
func (e *earlyImages) await(over context.Context) {
	defer close(e.opened)
	path := fmt.Sprintf("/proc/self/fd/%d", e.fifo.Fd())
	through := make(chan struct{})
	left := make(chan struct{})
	stop := context.AfterFunc(over, func() {
		defer close(left)
		// A reader of our own has the other call return.
		if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			defer unix.Close(fd)
		}
		<-through
	})
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	close(through)
	if !stop() {
		<-left
	}
	e.fifo.Close()
	switch {
	case err != nil:
	case over.Err() != nil:
		f.Close()
	default:
		e.inventory = f
	}
}

// empty takes away what runc, and CRIU, have opened by now: nothing is in the directory then.
func (e *earlyImages) empty() error {
	for _, name := range []string{descriptorsFile, inventoryImage} {
		if err := os.Remove(filepath.Join(e.dir, name)); err != nil {
			return fmt.Errorf("directory for images to come: %w", err)
		}
	}
	return nil
}

// feed gives CRIU the images that have come to a directory, which is the one where it looks for them if they are in place.
func (e *earlyImages) feed(images string, inPlace bool) error {
	if e.inventory == nil {
		return errors.New("CRIU never asked for the images")
	}
	descriptors, err := os.ReadFile(filepath.Join(images, descriptorsFile))
	if err != nil {
		return err
	}
	if !bytes.Equal(descriptors, e.descriptors) {
		return errors.New("the container's standard files are others than was said before")
	}
	inventory, err := os.ReadFile(filepath.Join(images, inventoryImage))
	if err != nil {
		return err
	}
	if len(inventory) > maxInventory {
		return fmt.Errorf("the inventory has %d bytes, more than %d", len(inventory), maxInventory)
	}
	if !inPlace {
		if err := e.link(images); err != nil {
			return err
		}
	}
	if _, err := e.inventory.Write(inventory); err != nil {
		return err
	}
	return e.inventory.Close()
}

// link puts all other images that are in a directory where CRIU looks for them.
func (e *earlyImages) link(images string) error {
	files, err := os.ReadDir(images)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name() == inventoryImage || f.Name() == descriptorsFile {
			continue
		}
		if err := os.Link(filepath.Join(images, f.Name()), filepath.Join(e.dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// remove takes the directory away. Whoever still means to look there finds nothing.
func (e *earlyImages) remove() { os.RemoveAll(e.dir) }

// close lets go of the inventory, after await has returned: a CRIU that waits for it fails.
func (e *earlyImages) close() {
	if e != nil && e.inventory != nil {
		e.inventory.Close()
	}
}

// approach starts the restore of a parked container, and returns when CRIU waits for the
// images, or with why there is no such restore.
func (d *destination) approach(ctx context.Context, r *shimv1.ApproachRequest) (*shimv1.ApproachResponse, error) {
	a := d.arrival(r.GetRestore().GetContainer())
	t, err := d.startEarly(ctx, a, r)
	if err != nil {
		return nil, err
	}
	select {
	case <-t.early.opened:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for CRIU to be ready: %w", ctx.Err())
	}
	if t.over.Err() != nil {
		return nil, context.Cause(t.over)
	}
	resp := &shimv1.ApproachResponse{FillsTmpfs: a.fillsTmpfs, TmpfsFilled: a.fillsTmpfs, InNamespaces: true}
	if err := t.early.empty(); err != nil {
		d.log.Warn("images are linked when they have come", "container", a.container.id, "error", err)
		return resp, nil
	}
	resp.WaitsIn = t.early.dir
	return resp, nil
}

// startEarly has the stock start run for a container whose images have yet to come.
func (d *destination) startEarly(ctx context.Context, a *arrival, r *shimv1.ApproachRequest) (*attempt, error) {
	fill, err := d.startFill(ctx, a)
	if err != nil {
		return nil, err
	}
	early, err := makeEarlyImages(r.GetRestore(), r.GetDescriptors())
	if err != nil {
		return nil, err
	}
	if err := d.move(a, arrivalReady); err != nil {
		early.fifo.Close()
		early.remove()
		return nil, err
	}
	a.request = r.GetRestore()
	a.fillsTmpfs = d.expectTmpfs(a, r.GetTmpfs(), r.GetTmpfsContent())
	t, err := d.ready(ctx, a, 1, fill, early)
	if err != nil {
		early.fifo.Close()
		early.remove()
		_ = d.move(a, arrivalParked)
		return nil, err
	}
	fill.expect(d.orderOf(a.request, t.number))
	t.seen.Go(func() { early.await(t.over) })
	close(a.ahead)
	return t, nil
}

// takeEarly orders a restore that was started ahead; nil if none was. It says whether the
// restore can be given its images: who does then calls seen.Done. Else it has come to
// nothing.
func (d *destination) takeEarly(a *arrival) (t *attempt, waits bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t = a.attempt
	if t == nil || t.early == nil {
		return nil, false
	}
	if a.state != arrivalReady || d.moveLocked(a, arrivalRestoring) != nil {
		return t, false
	}
	t.seen.Add(1)
	return t, true
}

// restoreEarly is restoreContainer for a restore that was started ahead. errNotEarly says
// that there is none, and that the container is parked.
func (d *destination) restoreEarly(ctx context.Context, a *arrival, r *shimv1.RestoreRequest) error {
	t, waits := d.takeEarly(a)
	if t == nil {
		return errNotEarly
	}
	if waits {
		err := d.seeEarly(ctx, a, t, r)
		if err == nil || a.ended.Err() != nil {
			return err
		}
		d.log.Warn("a restore that was started ahead comes to nothing", "container", a.container.id, "error", t.restore.WithLog(err))
		t.end(err)
		t.early.remove()
		d.killToEnd(a, t.early.cleared)
	}
	select {
	case <-t.early.cleared:
		if t.early.clearErr == nil {
			return errNotEarly
		}
		d.abandon(a, t.early.clearErr)
		return t.early.clearErr
	case <-a.ended.Done():
		return context.Cause(a.ended)
	case <-ctx.Done():
		d.abandon(a, ctx.Err())
		return ctx.Err()
	}
}

// seeEarly gives CRIU the images, and returns when the container is held.
func (d *destination) seeEarly(ctx context.Context, a *arrival, t *attempt, r *shimv1.RestoreRequest) error {
	defer t.seen.Done()
	if r.GetMigration() != a.request.GetMigration() || r.GetIndex() != a.request.GetIndex() ||
		r.GetImagesDir() != a.request.GetImagesDir() || r.GetStoreDir() != a.request.GetStoreDir() {
		return errors.New("it was started for other images")
	}
	a.request = r // which says how pages come that were left at the source
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, end := range []context.Context{a.ended, t.over} {
		defer context.AfterFunc(end, func() { cancel(context.Cause(end)) })()
	}
	select {
	case <-t.early.opened:
	case <-both.Done():
		return context.Cause(both)
	}
	var err error
	if a.names, err = keepNames(a.container, r.GetImagesDir()); err != nil {
		d.log.Warn("a restore of the container cannot be done again", "container", a.container.id, "error", err)
	}
	t.fill.serve(d.orderOf(r, t.number))
	if err := t.fillTmpfs(r.GetImagesDir()); err != nil {
		return err
	}
	if err := t.early.feed(r.GetImagesDir(), r.GetImagesInPlace()); err != nil {
		return err
	}
	pid, err := t.restore.Held(both)
	if err != nil {
		return err
	}
	return d.hold(a, pid)
}

// parkAgain clears away a restore that was started ahead and has ended, and waits for the
// order to restore: true if that has come.
func (d *destination) parkAgain(a *arrival, t *attempt, why error) bool {
	t.release()
	d.log.Warn("a restore that was started ahead has ended, the container is restored without",
		"container", a.container.id, "error", t.restore.WithLog(why))
	err := d.clean(a, t)
	closeNames(a.names)
	a.names = nil
	t.early.close()
	var next *fill
	if err == nil {
		next, err = d.newFill(a.ended, a)
	}
	d.mu.Lock()
	a.fill, a.fillErr = next, err
	d.mu.Unlock()
	t.early.clearErr = err
	close(t.early.cleared)
	select {
	case <-a.order:
		return true
	case <-a.ended.Done():
		next.stop()
		return false
	}
}
