package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	gorunc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/shim/criu"
)

// cleanLimit bounds how long the remains of one restore may take to go.
const cleanLimit = 20 * time.Second

// cgroupOf is the cgroup of a container's restored processes: runc puts CRIU into it,
// and what CRIU forks is in it too. It fails if the cgroup is not the container's alone.
func cgroupOf(id string, criuPID int) (*freezer, error) {
	f, err := openFreezer(criuPID)
	if err != nil {
		return nil, err
	}
	if err := f.sparesSelf(); err != nil {
		return nil, err
	}
	if !strings.Contains(f.dir, id) {
		return nil, fmt.Errorf("CRIU is in %s, which is not the container's", f.dir)
	}
	return f, nil
}

// killAttempt ends what is at work on a container's restore: runc, CRIU, and the
// processes that it has made, none of which has run. They are frozen first and die in
// one moment: CRIU's death alone would let its processes go.
func (d *destination) killAttempt(a *arrival) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanLimit)
	defer cancel()
	d.mu.Lock()
	cgroup := a.cgroup
	d.mu.Unlock()
	if cgroup != nil {
		if err := cgroup.end(ctx); err != nil {
			d.log.Warn("not all processes of a restore are killed yet", "container", a.container.id, "error", err)
		}
	}
	killRestore(ctx, a.container.id)
	if err := criu.RemoveYards(); err != nil {
		d.log.Warn("mounts of a killed restore are left", "container", a.container.id, "error", err)
	}
}

// end kills all processes of a cgroup without letting any run again, and waits until
// they are gone. A cgroup that is gone has none.
func (f *freezer) end(ctx context.Context) error {
	pids, err := f.processes()
	if err != nil || len(pids) == 0 {
		return err
	}
	// One that does not freeze, as it hangs in the kernel, is killed all the same.
	_ = f.freeze(ctx)
	err = f.kill()
	err = errors.Join(err, f.thaw())
	for _, pid := range pids {
		err = errors.Join(err, awaitEnd(ctx, pid))
	}
	return err
}

// awaitEnd returns when a process has ended.
func awaitEnd(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for {
		wait := time.Second
		if deadline, ok := ctx.Deadline(); ok {
			wait = max(0, time.Until(deadline))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for process %d: %w", pid, err)
		case ctx.Err() != nil:
			return fmt.Errorf("process %d does not end: %w", pid, ctx.Err())
		}
	}
}

// clean removes everything that an attempt at a restore has left, so that the next
// finds what the first found: processes, the userfaultfds and journals of its fault
// server, runc's state, System V objects. Names of deleted files that it has removed are
// given again. The images, the store and the container's other files are as they were, as
// nothing has run.
func (d *destination) clean(a *arrival, t *attempt) error {
	d.killAttempt(a)
	c := a.container
	t.restore.Close()
	t.fill.stop()
	t.restore.ClearRoots()
	if err := t.restore.KeepLog(t.number); err != nil {
		return err
	}
	runc, err := c.runtime()
	if err != nil {
		return err
	}
	if err := unmountRestoreRoot(runc.Root, c.id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanLimit)
	defer cancel()
	// A restore that was killed early has no state that runc would know.
	if err := runc.Delete(ctx, c.id, &gorunc.DeleteOpts{Force: true}); err != nil {
		d.log.Info("runc has nothing to delete of a restore", "container", c.id, "answer", err)
	}
	if err := clearRestoreRoot(runc.Root, c.id); err != nil {
		return err
	}
	if err := os.RemoveAll(d.orderOf(a.request, t.number).journal()); err != nil {
		return fmt.Errorf("journals of the fault server: %w", err)
	}
	for _, name := range a.names {
		if err := name.again(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	cgroup, made := a.cgroup, a.made
	d.mu.Unlock()
	if len(made) > 0 {
		if err := removeSysV(int(d.placeholder()), made); err != nil {
			return err
		}
	}
	if cgroup == nil {
		return nil
	}
	left, err := cgroup.processes()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("processes %v of a restore do not end", left)
	}
	return err
}
