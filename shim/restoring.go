package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"golang.org/x/sys/unix"
)

// restoreWorkDir is where the stock service has CRIU work
// (containerd: cmd/containerd-shim-runc-v2/runc/container.go, newInit).
func restoreWorkDir(c *container) (string, error) {
	opts, err := runc.ReadOptions(c.bundle)
	if err != nil {
		return "", fmt.Errorf("read runc options: %w", err)
	}
	if opts != nil && opts.CriuWorkPath != "" {
		return opts.CriuWorkPath, nil
	}
	return filepath.Join(c.bundle, "work"), nil
}

// killRestore ends the `runc restore` of a container and the CRIU below it,
// which otherwise wait for a fault server without end when they fail late. It returns
// when CRIU has ended, or does not for stopLimit.
func killRestore(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return
	}
	for _, path := range procs {
		cmdline, err := os.ReadFile(path)
		if err != nil || !isRestoreOf(strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00"), id) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		killTree(ctx, pid)
	}
}

// killTree ends a process and all that it has started: what CRIU has begun to restore waits for it for ever. Each is stopped
// first, so that it starts no other meanwhile, and dies before its children, else it begins to clear up.
func killTree(ctx context.Context, pid int) {
	_ = unix.Kill(pid, unix.SIGSTOP)
	below := children(pid)
	_ = unix.Kill(pid, unix.SIGKILL)
	for _, child := range below {
		killTree(ctx, child)
	}
	_ = awaitEnd(ctx, pid)
}

// restoreRoot is where a `runc restore` binds the container's root file system for
// CRIU, in its state directory (runc: libcontainer/criu_linux.go, Restore). One that is
// killed leaves it there.
func restoreRoot(runcRoot, id string) string { return filepath.Join(runcRoot, id, "criu-root") }

// unmountRestoreRoot takes that mount away. `runc delete` removes the state directory
// with everything below it, and so would empty the container's root file system.
func unmountRestoreRoot(runcRoot, id string) error {
	root := restoreRoot(runcRoot, id)
	for {
		switch err := unix.Unmount(root, unix.MNT_DETACH); {
		case err == nil: // one more may be below it
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount the root file system that a restore left at %s: %w", root, err)
		}
	}
}

// clearRestoreRoot removes what a `runc restore` that was killed leaves of its
// state: without a state.json `runc delete` knows nothing of it.
func clearRestoreRoot(runcRoot, id string) error {
	if err := unmountRestoreRoot(runcRoot, id); err != nil {
		return err // what is mounted there must not be removed
	}
	os.Remove(restoreRoot(runcRoot, id))
	os.Remove(filepath.Join(runcRoot, id)) // fails where runc knows the container
	return nil
}

// bundleCgroup is where a bundle's cgroups are, below each hierarchy; empty if systemd makes them, and removes them, or nobody,
// or if they are not the container's alone.
func bundleCgroup(bundle string) string {
	var spec struct {
		Linux struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
	raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil || json.Unmarshal(raw, &spec) != nil || !filepath.IsAbs(spec.Linux.CgroupsPath) {
		return ""
	}
	if id := strings.TrimPrefix(filepath.Base(bundle), "."); !strings.Contains(spec.Linux.CgroupsPath, id) {
		return ""
	}
	return spec.Linux.CgroupsPath
}

// endCgroup ends all processes of a bundle's cgroup in one moment; what does not end in time stays.
func endCgroup(ctx context.Context, path string) {
	unified := cgroups.Mode() == cgroups.Unified
	f := &freezer{dir: freezerDir(path, unified), unified: unified}
	_ = f.end(ctx)
}

// clearCgroups ends whoever is still in the cgroups that a killed `runc restore` has made, such as a script of CRIU's, and
// removes them; runc would do so by its state.json.
func clearCgroups(bundle string) {
	path := bundleCgroup(bundle)
	if path == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	endCgroup(ctx, path)
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + path)
	if err != nil {
		return
	}
	for _, dir := range append(dirs, filepath.Join("/sys/fs/cgroup", path)) {
		removeCgroup(ctx, dir)
	}
}

// cgroupLook is the time between two tries to remove a cgroup. It stays busy for a moment after its last process has ended,
// and nothing tells when that is over.
const cgroupLook = 5 * time.Millisecond

// removeCgroup removes an empty cgroup, or leaves it if it does not get empty.
func removeCgroup(ctx context.Context, dir string) {
	for errors.Is(unix.Rmdir(dir), unix.EBUSY) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(cgroupLook):
		}
	}
}

// isRestoreOf recognises `runc ... restore ... ID`.
func isRestoreOf(args []string, id string) bool {
	return len(args) >= 3 && args[len(args)-1] == id && slices.Contains(args[1:len(args)-1], "restore")
}

// children lists the child processes of all threads of a process.
func children(pid int) []int {
	var out []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range lists {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, f := range bytes.Fields(b) {
			if n, err := strconv.Atoi(string(f)); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}
