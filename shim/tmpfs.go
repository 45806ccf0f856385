package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"godwit.dev/godwit/shim/criu"
	"godwit.dev/godwit/shim/tmpfs"
)

// A container has file systems in memory of its own: /dev, what masks directories of /proc and /sys, and on cgroup version 1
// that in which the hierarchies are mounted. CRIU runs tar and gzip for each of them while the pod is frozen, and once more when
// it is restored. Those that package tmpfs can carry are external mounts to CRIU: beside its images there is a file of
// records for each, and CRIU binds what has been filled from that. Both ends have to do so, which the destination says
// when it is asked to start its restores ahead; else, and for what package tmpfs leaves to CRIU, all is as CRIU does it.

// tmpfsName is what the images call a container's i-th mount.
func tmpfsName(i int) string { return fmt.Sprintf("godwit-tmpfs-%02d", i) }

// tmpfsRecords is the file, beside CRIU's images, of what is in it.
func tmpfsRecords(images string, i int) string {
	return filepath.Join(images, tmpfsName(i)+".records")
}

// tmpfsChanges is the file, beside CRIU's images, of what has changed in those that the destination has filled before the freeze.
func tmpfsChanges(images string) string { return filepath.Join(images, "godwit-tmpfs.changes") }

// ownMounts are, for each container, its own tmpfs mounts as a destination is told of them.
func (s *source) ownMounts() []string {
	out := make([]string, len(s.containers))
	for i, c := range s.containers {
		var err error
		if c.own, err = tmpfs.Find(c.pid); err == nil {
			out[i], err = tmpfs.Encode(c.own)
		}
		if err != nil {
			s.log.Warn("file systems in memory are left to CRIU", "container", c.id, "error", err)
			c.own, out[i] = nil, ""
		}
	}
	return out
}

// openTmpfs opens the mounts of a container that the destination will fill.
func (s *source) openTmpfs(c *departure) {
	if !c.carriesTmpfs {
		return
	}
	pids, err := c.freezer.processes()
	if err == nil {
		c.tmpfs, err = tmpfs.Open(c.pid, pids, c.own)
	}
	if err != nil {
		s.log.Warn("file systems in memory are left to CRIU", "container", c.id, "error", err)
	}
	if c.tmpfsFilled {
		tmpfs.TakeOver(c.tmpfs, c.tmpfsAhead)
		c.tmpfsAhead = nil
	}
}

// external are the mounts that CRIU leaves out of a dump.
func (d *departure) external() []criu.External {
	var out []criu.External
	for i, m := range d.tmpfs {
		if m != nil {
			out = append(out, criu.External{Key: m.Path, Value: tmpfsName(i)})
		}
	}
	return out
}

// saveTmpfs writes down what is in them, or what has changed in those that the destination has filled, beside CRIU's images. It may be
// called again.
func (d *departure) saveTmpfs(ctx context.Context) error {
	changes := &lateFile{path: tmpfsChanges(d.images)}
	err := d.saveEach(ctx, changes)
	if err = errors.Join(err, changes.close()); err != nil {
		return fmt.Errorf("container %s: %w", d.id, err)
	}
	return nil
}

func (d *departure) saveEach(ctx context.Context, changes *lateFile) error {
	for i, m := range d.tmpfs {
		var err error
		switch {
		case m == nil:
		case m.IsAhead():
			err = m.Changes(ctx, i, changes)
		default:
			err = m.Save(ctx, tmpfsRecords(d.images, i))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// closeTmpfs lets go of them.
func (d *departure) closeTmpfs() {
	tmpfs.Close(d.tmpfs)
	tmpfs.Close(d.tmpfsAhead)
	d.tmpfs, d.tmpfsAhead = nil, nil
}

// arrivingTmpfs is a tmpfs of a container that arrives, and where CRIU finds it.
type arrivingTmpfs struct {
	*tmpfs.Target
	at string
}

// expectTmpfs takes a source's word of a container's own mounts, and of what they hold. It says whether they can be made here; if not, or
// if the source says nothing, CRIU makes them.
func (d *destination) expectTmpfs(a *arrival, list string, content []byte) bool {
	if list == "" {
		return false
	}
	mounts, err := tmpfs.Decode(list)
	var tried []*tmpfs.Target
	if err == nil {
		tried, err = makeFilled(mounts, content)
	}
	if err != nil {
		d.log.Warn("file systems in memory are left to CRIU", "container", a.container.id, "error", err)
		return false
	}
	tmpfs.CloseAll(tried)
	a.own, a.holds = mounts, content
	return true
}

// makeFilled makes mounts that hold what a source has said of them.
func makeFilled(mounts []tmpfs.Mount, content []byte) ([]*tmpfs.Target, error) {
	targets, err := tmpfs.MakeAll(mounts)
	if err != nil {
		return nil, err
	}
	if _, err := tmpfs.FillAll(targets, content); err != nil {
		tmpfs.CloseAll(targets)
		return nil, err
	}
	return targets, nil
}

// makeTmpfs makes a container's own mounts, with a directory below dir for each.
func (a *arrival) makeTmpfs(dir string) ([]arrivingTmpfs, error) {
	targets, err := makeFilled(a.own, a.holds)
	if err != nil {
		return nil, err
	}
	var out []arrivingTmpfs
	for i, t := range targets {
		at := filepath.Join(dir, tmpfsName(i))
		out = append(out, arrivingTmpfs{t, at})
		if err := os.Mkdir(at, 0o700); err != nil {
			tmpfs.CloseAll(targets)
			return nil, fmt.Errorf("directory for a file system in memory: %w", err)
		}
	}
	return out, nil
}

// externalAt are the mounts that CRIU binds.
func externalAt(mounts []arrivingTmpfs) []criu.External {
	var out []criu.External
	for i, m := range mounts {
		out = append(out, criu.External{Key: tmpfsName(i), Value: m.at})
	}
	return out
}

// fillTmpfs fills the mounts of an attempt from what has come with the images, or changes what they hold.
func (t *attempt) fillTmpfs(images string) error {
	targets := make([]*tmpfs.Target, len(t.tmpfs))
	for i, m := range t.tmpfs {
		targets[i] = m.Target
	}
	done, err := tmpfs.ChangeAll(targets, tmpfsChanges(images))
	if err != nil {
		return err
	}
	for i, m := range targets {
		if done[i] {
			continue
		}
		err := m.Fill(tmpfsRecords(images, i))
		if errors.Is(err, os.ErrNotExist) {
			err = unlessDumped(images, i, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unlessDumped is why what is in a container's i-th mount has not come; nil if CRIU has dumped that.
func unlessDumped(images string, i int, missing error) error {
	names, err := mountImages(images)
	if err != nil {
		return err
	}
	if bytes.Contains(names, []byte(tmpfsName(i))) {
		return missing
	}
	return nil
}

// mountImages reads what CRIU's images say of mounts.
func mountImages(images string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(images, "mountpoints-*.img"))
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("mounts of the container: %w", err)
		}
		all = append(all, b...)
	}
	return all, nil
}

// release lets go of the mounts, when nobody sees the attempt through any more, and of what was made for its CRIU. What CRIU has bound stays.
func (t *attempt) release() {
	t.seen.Wait()
	t.releasing.Do(func() {
		_ = t.old.remove() // of a container that is cleared away
		for _, m := range t.tmpfs {
			m.Close()
		}
	})
}

// tmpfsFlag comes before a descriptor and a path among the arguments of helperShow.
const tmpfsFlag = "--tmpfs"

// showTmpfs has a command inherit mounts, and are the arguments that have helperShow attach them.
func showTmpfs(cmd *exec.Cmd, mounts []arrivingTmpfs) []string {
	var args []string
	cmd.ExtraFiles = slices.Clone(cmd.ExtraFiles)
	for _, m := range mounts {
		args = append(args, tmpfsFlag, strconv.Itoa(firstExtra+len(cmd.ExtraFiles)), m.at)
		cmd.ExtraFiles = append(cmd.ExtraFiles, m.File())
	}
	return args
}

// firstExtra is the descriptor that a command inherits its first extra file as.
const firstExtra = 3

// inherited is a tmpfs that a process has inherited, and where it is to be attached.
type inherited struct {
	fd int
	at string
}

// inheritedTmpfs takes mounts off the arguments of helperShow.
func inheritedTmpfs(args []string) (mounts []inherited, rest []string, err error) {
	for len(args) >= 3 && args[0] == tmpfsFlag {
		fd, err := strconv.Atoi(args[1])
		if err != nil {
			return nil, nil, fmt.Errorf("descriptor of a tmpfs: %w", err)
		}
		mounts, args = append(mounts, inherited{fd, args[2]}), args[3:]
	}
	return mounts, args, nil
}

// attach mounts it in the namespace of the calling thread.
func (m inherited) attach() error {
	defer os.NewFile(uintptr(m.fd), m.at).Close()
	return tmpfs.Attach(m.fd, m.at)
}
