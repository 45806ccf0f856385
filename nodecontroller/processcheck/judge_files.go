package processcheck

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/pagestream/criuversion"
)

// What to do about findings of several kinds.
const (
	useNoIOURing = "configure it not to use io_uring"
	noDevices    = "a pod that uses devices of its node cannot be moved"
)

// anonymous are the files without a name that CRIU dumps (criu/files.c,
// dump_one_file). BPF maps are missing: CRIU has them only if it was built with
// libbpf, and Debian's was not.
var anonymous = []string{"[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]"}

// devices that CRIU dumps (criu/files.c, dump_chrdev): all of memory's, and of the
// many that share number 10 these.
const (
	memoryMajor, miscMajor = 1, 10
	tunMinor, autofsMinor  = 200, 235
)

// Terminals (criu/tty.c, get_tty_driver).
const (
	ttyMajor, ttyAuxMajor       = 4, 5
	ptySlaveFirst, ptySlaveLast = 136, 143
	ptmxMinor                   = 2
)

// judgeFile is about one open file.
func (c *scope) judgeFile(f *File) []obstacle.Finding {
	switch f.Type {
	case unix.S_IFSOCK:
		return c.judgeSocket(f)
	case unix.S_IFCHR:
		return c.judgeDevice(f)
	case unix.S_IFBLK:
		return c.cannot("the device "+f.Link+" open", noDevices)
	case unix.S_IFIFO:
		return nil
	}
	if name, ok := strings.CutPrefix(f.Link, "anon_inode:"); ok {
		return c.judgeAnonymous(f, name)
	}
	if f.Type == unix.S_IFREG || f.Type == unix.S_IFDIR || f.Type == unix.S_IFLNK {
		return c.judgeOrdinary(f)
	}
	return c.cannot(fmt.Sprintf("%s open (descriptor %d)", f.Link, f.FD), "close it")
}

func (c *scope) judgeAnonymous(f *File, name string) []obstacle.Finding {
	open := fmt.Sprintf("%s open (descriptor %d)", strings.Trim(name, "[]"), f.FD)
	switch {
	case name == "[io_uring]":
		return c.cannot("an "+open, useNoIOURing)
	case name == "seccomp notify":
		return c.cannot("a seccomp listener open", "run the processes that it decides for without")
	case strings.HasPrefix(name, "bpf"):
		return c.cannot(open, "run programs that load BPF outside of pods that are to be moved")
	case name == "[pidfd]":
		return c.judgePidfd(f)
	case name == "inotify", name == "[fanotify]":
		return c.judgeWatches(f, strings.Trim(name, "[]"))
	case slices.Contains(anonymous, name):
		return nil
	}
	return c.cannot(open, "configure it not to use that")
}

// pidfdCRIU is the first that dumps pidfds.
var pidfdCRIU = criuversion.Version{Major: 4, Minor: 1}

// judgePidfd is criu/pidfd.c, dump_one_pidfd.
func (c *scope) judgePidfd(f *File) []obstacle.Finding {
	if c.snapshot.CRIU.Before(pidfdCRIU) {
		return c.cannot(fmt.Sprintf("a pidfd open (descriptor %d)", f.FD), fmt.Sprintf("install CRIU %v or later", pidfdCRIU))
	}
	if f.Flags&unix.O_EXCL != 0 {
		return c.cannot(fmt.Sprintf("a pidfd of a thread open (descriptor %d)", f.FD), "close it")
	}
	pid, err := strconv.Atoi(f.Info["Pid"])
	if err != nil || pid < 0 {
		return nil // it has ended
	}
	for _, p := range c.container.Processes {
		if p.PID == pid {
			return nil
		}
	}
	return c.cannot(fmt.Sprintf("a pidfd open (descriptor %d) of process %d, outside of the container", f.FD, pid), "close it")
}

// judgeWatches finds marks on overlays. CRIU finds what is watched by its file
// handle, and an overlay gives out handles that open only with nfs_export
// (criu/fsnotify.c, check_open_handle).
func (c *scope) judgeWatches(f *File, kind string) []obstacle.Finding {
	for _, device := range f.Watches {
		for _, m := range c.process.Mounts {
			if m.Device == device && m.Type == "overlay" && !strings.Contains(m.Super, "nfs_export=on") {
				return []obstacle.Finding{c.refuse(fmt.Sprintf("watches files of the container's image by %s (descriptor %d), which CRIU cannot find again on an overlay", kind, f.FD),
					"have it watch files of a volume only, an emptyDir for example, or poll")}
			}
		}
	}
	return nil
}

func (c *scope) judgeDevice(f *File) []obstacle.Finding {
	d := f.Special
	switch {
	case isTerminal(d):
		return c.judgeTerminal(f)
	case d.Major == memoryMajor, d == Device{miscMajor, autofsMinor}:
		return nil
	case d == Device{miscMajor, tunMinor}:
		if f.Info["iff"] == "" {
			return nil // attached to no interface
		}
		// criu/net.c, dump_net_ns: the pod's network is not dumped, and with it no
		// interface to attach to again.
		return []obstacle.Finding{c.refuse("has the interface "+f.Info["iff"]+" of /dev/net/tun, which is not made again", noDevices)}
	}
	return c.cannot(fmt.Sprintf("the device %s open", f.Link), noDevices)
}

func isTerminal(d Device) bool {
	return d.Major == ttyMajor || (d.Major == ttyAuxMajor && d.Minor <= ptmxMinor) || (d.Major >= ptySlaveFirst && d.Major <= ptySlaveLast)
}

// judgeTerminal finds terminals whose other end is not in the container
// (criu/tty.c, tty_verify_active_pairs).
func (c *scope) judgeTerminal(f *File) []obstacle.Finding {
	if f.Special == (Device{ttyAuxMajor, ptmxMinor}) {
		return nil // a master: CRIU dumps one without slaves
	}
	if f.Special.Major >= ptySlaveFirst && f.Special.Major <= ptySlaveLast {
		index := strconv.Itoa(int(f.Special.Major-ptySlaveFirst)<<8 | int(f.Special.Minor))
		if c.hasMaster(index, f.FileSystem) {
			return nil
		}
	}
	return []obstacle.Finding{c.refuse("has the terminal "+f.Link+" open, whose other end is not in the container", "end the session, or run the container without tty")}
}

// hasMaster says whether a process of the container has the master of a pseudo
// terminal.
func (c *scope) hasMaster(index string, devpts Device) bool {
	for _, p := range c.container.Processes {
		for _, f := range p.Files {
			if f.Special == (Device{ttyAuxMajor, ptmxMinor}) && f.Info["tty-index"] == index && (f.FileSystem == devpts || strings.HasPrefix(f.Link, "/dev/ptmx")) {
				return true
			}
		}
	}
	return false
}

// judgeOrdinary is about files that have a path (criu/files-reg.c,
// dump_one_reg_file): it must be one of the container's.
func (c *scope) judgeOrdinary(f *File) []obstacle.Finding {
	if strings.HasPrefix(f.Link, "/memfd:") || !strings.HasPrefix(f.Link, "/") {
		return nil // memfds and namespaces have entries of their own in the images
	}
	if _, ok := c.process.Mounts[f.Mount]; ok {
		return nil
	}
	if strings.HasPrefix(f.Link, "/secretmem") {
		return c.cannot("secret memory (memfd_secret)", "configure it not to use any")
	}
	if strings.HasPrefix(f.Link, "/dmabuf:") {
		return c.cannot("a DMA buffer open", noDevices)
	}
	if strings.HasPrefix(f.Link, "/dev/zero") || strings.HasPrefix(f.Link, "/anon_hugepage") || strings.HasPrefix(f.Link, "/SYSV") {
		return nil // memory
	}
	return []obstacle.Finding{c.refuse(fmt.Sprintf("has %s open (descriptor %d), which is on no mount of the container, so that CRIU cannot dump it", f.Link, f.FD), "close it")}
}
