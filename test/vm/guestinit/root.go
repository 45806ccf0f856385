package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/vm/guest"
)

// newRoot is where the root file system is put together.
const newRoot = "/newroot"

// settle makes the root file system and everything else that a machine has when its services are started.
func settle(s guest.Spec) error {
	if err := mountRoot(s); err != nil {
		return err
	}
	if err := enterRoot(); err != nil {
		return err
	}
	if err := mountRuntime(); err != nil {
		return err
	}
	if err := linkApplets(); err != nil {
		return err
	}
	loadModules(s.Modules)
	pin()
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// Directories of a tmpfs: a disk would only be slower, and nothing outlives the machine.
const (
	scratch      = "/disks/scratch"
	scratchUpper = scratch + "/upper" // what is written to the root file system
	scratchWork  = scratch + "/work"  // overlayfs's own
	// A lab's nodes have overlays, whose upper layer cannot be on another overlay.
	scratchTmp = scratch + "/tmp" // is /var/tmp
	scratchLab = scratch + "/lab" // is /var/lib/godwit-lab
)

// mountScratch mounts the tmpfs.
func mountScratch() error {
	if err := mount("scratch", scratch, "tmpfs", 0, "size=90%,mode=755"); err != nil {
		return err
	}
	for _, dir := range []string{scratchUpper, scratchWork, scratchTmp, scratchLab} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// mountRoot mounts the disks, and an overlay over the nodes' root file system with both disks in it.
func mountRoot(s guest.Spec) error {
	const system = "/disks/system"
	if err := mountScratch(); err != nil {
		return err
	}
	for _, d := range []struct {
		serial, target string
		flags          uintptr
	}{{guest.SystemDisk, system, unix.MS_NOATIME}, {guest.PayloadDisk, "/disks/payload", unix.MS_RDONLY}} {
		dev, err := findDevice("/sys/block/*/serial", d.serial)
		if err != nil {
			return err
		}
		if err := mount(dev, d.target, "ext4", d.flags, ""); err != nil {
			return err
		}
	}
	overlay := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", filepath.Join(system, guest.CacheDir, s.Root), scratchUpper, scratchWork)
	if err := mount("overlay", newRoot, "overlay", 0, overlay); err != nil {
		return err
	}
	for _, b := range []struct{ from, to string }{
		{system, guest.System},
		{"/disks/payload", guest.Payload},
		{filepath.Join(system, guest.CacheDir), s.Cache},
		{filepath.Join(system, guest.ModulesDir), "/usr/lib/modules"},
		{scratchTmp, "/var/tmp"},
		{scratchLab, "/var/lib/godwit-lab"},
	} {
		if err := mount(b.from, newRoot+b.to, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// enterRoot makes the new root the root of PID 1, and with it of the kernel's threads. The initial RAM file system cannot be
// unmounted; the new root is moved over it.
func enterRoot() error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	return unix.Chdir("/")
}

// mountRuntime mounts what lives in memory, and cgroup version 2 alone.
func mountRuntime() error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"tmpfs", "/run", "tmpfs", safe, "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", safe, "mode=1777"},
		{"devpts", "/dev/pts", "devpts", 0, "gid=5,mode=620,ptmxmode=666"},
		{"shm", "/dev/shm", "tmpfs", safe, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", 0, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", safe | unix.MS_NOEXEC, ""},
	} {
		if err := mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, filepath.Join("/dev", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("/dev: %w", err)
		}
	}
	return os.MkdirAll(guest.Out, 0o755)
}

// applets are what Debian's minimal system lacks and busybox has: the kernel, too, starts modprobe.
var applets = []string{"modprobe", "pivot_root"}

// linkApplets gives them to the machine.
func linkApplets() error {
	for _, name := range applets {
		err := os.Symlink(filepath.Join(guest.System, guest.Busybox), filepath.Join("/usr/sbin", name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("busybox: %w", err)
		}
	}
	return nil
}

// loadModules loads modules; what cannot be loaded is said on the console, and whoever needs it will say so.
func loadModules(modules []string) {
	for _, m := range modules {
		if out, err := exec.Command("/usr/sbin/modprobe", m).CombinedOutput(); err != nil {
			fmt.Printf("guestinit: modprobe %s: %v: %s\n", m, err, out)
		}
	}
}
