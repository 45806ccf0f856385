package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	gorunc "github.com/containerd/go-runc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/shim/criu"
	"godwit.dev/godwit/shim/tmpfs"
)

// letGoLimit is how long CRIU may take to let go of a container before it is
// killed, which sets the container free as well.
const letGoLimit = 5 * time.Second

// departure is one container of a pod that leaves.
type departure struct {
	*container
	// index is the container's number on the wire.
	index   uint16
	pid     int
	freezer *freezer
	runc    *gorunc.Runc
	files   *tree
	// standing are its processes, from the freeze on.
	standing []int
	// copied are the mount points of volumes that move with the pod.
	copied []string
	// dump exists from the cutover on, images and views with it.
	dump    *criu.Dump
	dumping criu.DumpConfig
	// restarted: that is the second, as the frozen container had guard pages that CRIU must see.
	restarted bool
	// inNetwork: the destination restores in the pod's network namespace; inNamespaces: in its IPC and UTS namespaces, and these hold nothing.
	inNetwork, inNamespaces bool
	// clocks is the time namespace that CRIU enters to work there, if any.
	clocks string
	images string
	views  []*criu.View
	// own are the container's own tmpfs mounts, as the destination was told of them; carriesTmpfs: it fills them
	// in, and has filled in what contentAhead has told if tmpfsFilled. tmpfs are those that CRIU then leaves out, open; tmpfsAhead, before
	// that, those of which something was told.
	own                       []tmpfs.Mount
	carriesTmpfs, tmpfsFilled bool
	tmpfs, tmpfsAhead         []*tmpfs.Source
	// witness is CRIU's own dump of the container, nil if that is not asked for.
	witness *witnessDump
}

// newDeparture checks that a container runs and can be frozen.
func newDeparture(c *container, index uint16) (*departure, error) {
	if c.terminal {
		return nil, fmt.Errorf("container %s has a terminal, which cannot be moved; run it without tty", c.id)
	}
	d := &departure{container: c, index: index}
	var err error
	if d.pid, err = c.pid(); err != nil {
		return nil, err
	}
	if err := unix.Kill(d.pid, 0); err != nil {
		return nil, fmt.Errorf("container %s is not running: %w", c.id, err)
	}
	if d.freezer, err = openFreezer(d.pid); err != nil {
		return nil, err
	}
	if err := d.freezer.sparesSelf(); err != nil {
		return nil, err
	}
	frozen, err := d.freezer.frozen()
	if err != nil {
		return nil, err
	}
	if frozen {
		return nil, fmt.Errorf("container %s is paused; resume it first", c.id)
	}
	d.runc, err = c.runtime()
	return d, err
}

// sourceDir is where a leaving container keeps its images: a tmpfs of its own
// in the bundle.
func sourceDir(bundle string) string { return filepath.Join(bundle, "godwit", "source") }

// startDump starts CRIU, which then waits for the freeze.
func (d *departure) startDump(ctx context.Context) error {
	work, err := workDir(d.container, "dump")
	if err != nil {
		return err
	}
	clearSourceDir(d.bundle)
	d.images = sourceDir(d.bundle)
	if err := os.MkdirAll(d.images, 0o700); err != nil {
		return fmt.Errorf("make images directory: %w", err)
	}
	if err := unix.Mount("godwit", d.images, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount tmpfs for images: %w", err)
	}
	features := readyFeatures()
	if d.views, err = d.makeViews(work, features != ""); err != nil {
		return err
	}
	criu.PrepareAmendFiles()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the shim's own binary: %w", err)
	}
	d.dumping = criu.DumpConfig{
		Runtime: d.runc, ID: d.id, Config: d.criuConfig(), Images: d.images, Work: work, Features: features,
		Views: d.views, Showing: []string{self, helperShow}, Namespaces: d.dumpNamespaces().arguments(), Time: d.clocks, External: d.external(), Run: runReaped,
	}
	if features != "" {
		if left, err := d.hasGuardsLeft(); err != nil || left {
			d.dumping.Features = ""
		}
	}
	return d.startCRIU(ctx)
}

// startCRIU starts one for the dump, and waits until it has begun.
func (d *departure) startCRIU(ctx context.Context) (err error) {
	if d.dump, err = criu.StartDump(ctx, d.dumping); err != nil {
		return err
	}
	return d.dump.Ready(ctx)
}

// makeViews prepares what CRIU is to see of each process. One that comes later
// has no view: CRIU then looks at all its pages.
//
// Without PAGEMAP_SCAN nobody has one, as it takes that to tell which pages the
// areas have that CRIU does not see. guards: CRIU knows guard pages.
func (d *departure) makeViews(dir string, guards bool) ([]*criu.View, error) {
	if pagemap.ProbeScan() != nil {
		return nil, nil
	}
	pids, err := d.freezer.processes()
	if err != nil {
		return nil, err
	}
	var views []*criu.View
	for _, pid := range pids {
		id, err := vpid(pid)
		if err != nil {
			continue // it ended meanwhile
		}
		v, err := criu.NewView(dir, pid, id, guards)
		if criu.IsGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

// processes lists the container's processes. Those of a frozen one are listed once.
func (d *departure) processes() ([]int, error) {
	if d.standing != nil {
		return d.standing, nil
	}
	return d.freezer.processes()
}

// refreshViews brings the views of the frozen processes up to date. One that has ended has none any more: another may have
// its number in the images.
func (d *departure) refreshViews() error {
	var standing []*criu.View
	for _, v := range d.views {
		_, err := v.Refresh()
		if criu.IsGone(err) {
			continue
		}
		if err != nil {
			return err
		}
		standing = append(standing, v)
	}
	d.views = standing
	return nil
}

// dumpFrozen has all of the frozen container written that is neither memory nor in its file trees.
func (d *departure) dumpFrozen(ctx context.Context, scan *lastScan) error {
	work, all := errgroup.WithContext(ctx)
	work.Go(func() error { return d.dumpImages(all, scan) })
	work.Go(func() error { return d.saveTmpfs(all) })
	work.Go(func() error { return saveOversleep(d.images, d.standing) })
	if err := work.Wait(); err != nil {
		return err
	}
	has, err := criu.HasRemaps(d.images)
	if err == nil && has { // CRIU has made names, maybe there
		err = d.saveTmpfs(ctx)
	}
	d.closeTmpfs()
	return err
}

// dumpImages lets CRIU dump the frozen container and completes its images.
func (d *departure) dumpImages(ctx context.Context, scan *lastScan) error {
	if err := d.refreshViews(); err != nil {
		return err
	}
	if err := d.showGuards(ctx); err != nil {
		return err
	}
	if err := d.dump.Release(); err != nil {
		return err
	}
	present, guards := make([][]pagestream.Range, len(d.views)), make([][]pagestream.Range, len(d.views))
	for i, v := range d.views {
		var err error
		if present[i], guards[i], err = presentPages(ctx, v, scan); err != nil {
			return err
		}
	}
	if err := d.dump.Images(ctx); err != nil {
		return err
	}
	for i, v := range d.views {
		if err := v.Complete(d.images, present[i], guards[i]); err != nil {
			return err
		}
	}
	return criu.AmendFiles(d.images, func(path string) bool { return othersWrite(path, d.mounts, d.copied) })
}

// presentPages lists the pages that a frozen process has in the areas of its view, and the guard pages that are ours to list: those that the
// last scan has seen, or, where it has not looked, those that a scan of its own finds.
func presentPages(ctx context.Context, v *criu.View, scan *lastScan) (pages, guards []pagestream.Range, err error) {
	pages, guards, ok, err := scan.present(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		pages, guards, err = v.Present()
	}
	if criu.IsGone(err) {
		return nil, nil, nil // it has ended, and nobody has waited for it
	}
	guards = pagestream.Intersect(guards, v.Owned())
	if err == nil && len(guards) > 0 && !v.HidesGuards() {
		err = fmt.Errorf("process %d: %w", v.PID, errGuarded)
	}
	return pages, guards, err
}

// errGuarded: a CRIU that may not know guard pages has areas with some left to it.
var errGuarded = errors.New("it has made guard pages (MADV_GUARD_INSTALL) while it was about to be frozen, in memory that CRIU had been told to pass over; move the pod again")

// letGo has CRIU release the container and thaws it.
func (d *departure) letGo() error {
	d.closeTmpfs()
	var err error
	if d.dump != nil {
		ctx, cancel := context.WithTimeout(context.Background(), letGoLimit)
		defer cancel()
		err = d.dump.Abort(ctx)
		d.dump = nil
	}
	return errors.Join(err, d.freezer.thaw())
}

// clearSourceDir removes what a container of this bundle kept as a source.
func clearSourceDir(bundle string) {
	dir := sourceDir(bundle)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err == nil || errors.Is(err, unix.EINVAL) {
		os.Remove(dir)
	}
}
