package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/pace"
)

// endTimeout is how long the processes of a node may take to die of a SIGKILL: gigabytes of memory have to be freed.
const endTimeout = 30 * time.Second

// endAll kills what find finds until it finds nothing. Killed once is not enough: a task frozen by cgroup version 1 has to be
// thawed first, and one that was being forked is found the next time.
func endAll(find func() []int, thaw func()) error {
	deadline := time.Now().Add(pace.Stretch(endTimeout))
	for {
		pids := running(find())
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v did not end within %s of SIGKILL", pids, endTimeout)
		}
		kill(pids)
		thaw()
		awaitEnd(pids[0], 20*time.Millisecond)
	}
}

// awaitEnd waits until the process has ended, at most for timeout.
func awaitEnd(pid int, timeout time.Duration) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(timeout.Milliseconds()))
}

// endCgroup kills everything in a cgroup and removes it.
func endCgroup(path string) error {
	if err := endAll(func() []int { return cgroupPIDs(path) }, func() { thawCgroup(path) }); err != nil {
		return fmt.Errorf("cgroup %s: %w", path, err)
	}
	return removeCgroup(path)
}

// endNode kills everything that belongs to a node: what was started for it, what is in its cgroup, and what entered its
// mount namespace by hand. With PID 1 the kernel kills the rest of its PID namespace, and the mounts go with the last of them.
func (l layout) endNode(node string) error {
	s, _ := l.readState(node) // without it the cgroup and the markers tell enough
	mountNS := s.MountNS
	find := func() []int {
		pids := cgroupPIDs(l.nodeCgroup(node))
		for _, p := range processes() {
			if name, ok := p.nodeOf(l); ok && name == node && !strings.HasSuffix(p.args[0], "delay") {
				pids = append(pids, p.pid)
				if p.args[0] == arg0Node {
					mountNS = namespace(p.pid, "mnt")
				}
			}
		}
		if s.alive() {
			// PID 1 waits for all others of its namespace to end, when it has neither memory nor a cgroup by which it is found.
			pids = append(pids, s.PID)
		}
		return append(pids, inMountNS(mountNS, l.dataDir(node))...)
	}
	if err := endAll(find, func() { thawCgroup(l.nodeCgroup(node)) }); err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	return nil
}

// destroy removes all that there is of a node, whatever state it is in.
func (l layout) destroy(node string) error {
	s, stateErr := l.readState(node)
	if err := l.endNode(node); err != nil {
		return err
	}
	if err := removeCgroup(l.nodeCgroup(node)); err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	if err := endCgroup(l.linkCgroup(node)); err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	if stateErr == nil {
		if err := l.detach(node, s.Index); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
	}
	for _, dir := range []string{l.stateDir(node), l.dataDir(node)} {
		if err := removeTree(dir); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
	}
	return nil
}

// removeTree removes dir. Nothing should be mounted there; what is, by hand, is unmounted rather than emptied.
func removeTree(dir string) error {
	for _, m := range mountsBelow(dir) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// mountsBelow lists the mounts of this mount namespace at dir or below, the last mounted first.
func mountsBelow(dir string) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var mounts []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			mounts = append([]string{fields[4]}, mounts...)
		}
	}
	return mounts
}

// Down removes the lab of dir (empty for the default one): every process, link, cgroup, mount and file outside the cache. It
// works from names and needs nothing that a killed command might not have written. Without a lab it does nothing.
func Down(ctx context.Context, dir string) error {
	l, err := newLayout(dir)
	if err != nil {
		return err
	}
	release, err := flock(ctx, l.lockFile())
	if err != nil {
		return err
	}
	defer release()
	return l.down()
}

func (l layout) down() error {
	nodes, err := l.knownNodes()
	if err != nil {
		return err
	}
	var errs []error
	for _, node := range nodes {
		errs = append(errs, l.destroy(node))
	}
	errs = append(errs, l.removeLinks())
	errs = append(errs, endCgroup(l.cgroup()))
	errs = append(errs, l.releaseStorage(), removeTree(l.state), removeTree(l.data))
	if l.id != "0" {
		_ = os.Remove(filepath.Dir(l.state)) // the lab's own directory, if nothing else is in it
	}
	return errors.Join(errs...)
}
