package nodeinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountRoot builds the node's file system at s.Root, in the mount namespace of the caller, and pivots into it.
func mountRoot(s Spec) error {
	// Nothing that is mounted here may reach the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", s.Lower, s.Upper, s.Work)
	if err := unix.Mount("overlay", s.Root, "overlay", 0, overlay); err != nil {
		return fmt.Errorf("mount the root overlay (%s): %w", overlay, err)
	}
	steps := []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/dev", "/dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755,size=" + s.RunSize},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
	for _, m := range steps {
		if err := unix.Mount(m.source, s.Root+m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := mountCgroups(s); err != nil {
		return err
	}
	for _, b := range s.Binds {
		if err := bind(s.Root, b); err != nil {
			return err
		}
	}
	return pivot(s.Root)
}

func bind(root string, b Bind) error {
	target := filepath.Join(root, b.Node)
	if _, err := os.Stat(target); err != nil {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("bind %s: %w", b.Node, err)
		}
	}
	if err := unix.Mount(b.Host, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", b.Host, b.Node, err)
	}
	if !b.ReadOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", b.Node, err)
	}
	return nil
}

// mountCgroups mounts every hierarchy afresh: inside a cgroup namespace its root is the node's own cgroup, so that a
// container has the same path on every node and no two nodes meet.
func mountCgroups(s Spec) error {
	const dir = "/sys/fs/cgroup"
	base := s.Root + dir
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if len(s.Cgroups) == 1 && s.Cgroups[0].V2 {
		if err := unix.Mount("cgroup2", base, "cgroup2", flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
		return nil
	}
	if err := unix.Mount("tmpfs", base, "tmpfs", flags, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	for _, c := range s.Cgroups {
		target, fstype := filepath.Join(base, c.Dir), "cgroup"
		if c.V2 {
			fstype = "cgroup2"
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("cgroup hierarchy %s: %w", c.Dir, err)
		}
		if err := unix.Mount(fstype, target, fstype, flags, c.Options); err != nil {
			return fmt.Errorf("mount cgroup hierarchy %s (%q): %w", c.Dir, c.Options, err)
		}
	}
	for name, to := range s.CgroupLinks {
		if err := os.Symlink(to, filepath.Join(base, name)); err != nil {
			return fmt.Errorf("cgroup link: %w", err)
		}
	}
	return nil
}

// pivot makes root the root of the mount namespace. CRIU needs it: under chroot it finds no parent of the root mount. The
// old root is stacked on the new one at "." and let go from there, which needs no directory for it; see pivot_root(2).
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let the host's root go: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	// As systemd leaves it: mount propagation of containers works as on a machine, and ends at this namespace.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}

// SystemCgroup is the cgroup of PID 1 and its services, below the node's.
const SystemCgroup = "system"

// enterSystemCgroup moves the caller out of the node's own cgroup: with version 2 a cgroup that passes controllers on to
// its children may have no processes.
func enterSystemCgroup(s Spec) error {
	for _, c := range s.Cgroups {
		root := filepath.Join("/sys/fs/cgroup", c.Dir)
		dir := filepath.Join(root, SystemCgroup)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("system cgroup: %w", err)
		}
		if err := InheritCpuset(dir); err != nil {
			return fmt.Errorf("system cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
		if c.V2 && len(s.Cgroups) == 1 {
			PassControllers(root)
		}
	}
	return nil
}

// PassControllers lets the children of a version 2 cgroup use every controller that it has itself. A controller that
// cannot be passed on is left out: what needs it will say so.
func PassControllers(dir string) {
	b, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for c := range strings.FieldsSeq(string(b)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// InheritCpuset fills a new version 1 cpuset from its parent: it starts empty, and takes no process before it has CPUs and
// memory nodes.
func InheritCpuset(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || strings.TrimSpace(string(b)) != "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.subtree_control")); err == nil {
			continue // version 2: empty means the parent's
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), parent, 0); err != nil {
			return err
		}
	}
	return nil
}
