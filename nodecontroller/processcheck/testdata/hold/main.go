// Command hold takes hold of one thing that a process may have, says "ready" in
// a file and stays until it is killed: hold KIND FILE.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kinds take hold of what they are named after.
var kinds = map[string]func() error{
	"nothing":             func() error { return nil },
	"eventfd":             fd(func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }),
	"epoll":               fd(func() (int, error) { return unix.EpollCreate1(0) }),
	"timerfd":             fd(func() (int, error) { return unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0) }),
	"signalfd":            fd(func() (int, error) { return unix.Signalfd(-1, new(unix.Sigset_t), 0) }),
	"memfd":               fd(func() (int, error) { return unix.MemfdCreate("held", 0) }),
	"null":                open("/dev/null"),
	"kvm":                 open("/dev/kvm"),
	"fuse":                open("/dev/fuse"),
	"vsock-device":        open("/dev/vsock"),
	"tun":                 open("/dev/net/tun"),
	"tun-attached":        attachedTun,
	"block-device":        open("/dev/loop0"),
	"file":                fd(func() (int, error) { return unix.Open("/tmp/held", unix.O_RDWR|unix.O_CREAT, 0o600) }),
	"file-deleted":        deletedFile,
	"file-locked":         lockedFile,
	"io_uring":            fd(ioURing),
	"io_uring-mapped":     mappedIOURing,
	"userfaultfd":         fd(call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1)),
	"perf":                fd(perf),
	"bpf-array":           fd(bpfMap(unix.BPF_MAP_TYPE_ARRAY)),
	"bpf-ringbuf":         fd(bpfMap(unix.BPF_MAP_TYPE_RINGBUF)),
	"bpf-program":         fd(bpfProgram),
	"secretmem":           fd(call(unix.SYS_MEMFD_SECRET, 0)),
	"landlock":            fd(landlock),
	"seccomp-listener":    fd(seccompListener),
	"fanotify":            fd(fanotify),
	"inotify-tmpfs":       inotify("/tmp"),
	"inotify-root":        inotify("/usr/share"),
	"mqueue":              fd(messageQueue),
	"pidfd-self":          fd(func() (int, error) { return unix.PidfdOpen(os.Getpid(), 0) }),
	"pidfd-outside":       fd(func() (int, error) { return unix.PidfdOpen(os.Getppid(), 0) }),
	"pidfd-thread":        fd(func() (int, error) { return unix.PidfdOpen(os.Getpid(), unix.O_EXCL) }),
	"pty":                 pty(true),
	"pty-without-master":  pty(false),
	"unix-pair":           unixPair,
	"unix-many":           manyUnix,
	"unix-inherited":      inheritedSocket,
	"unix-elsewhere":      connectedElsewhere,
	"netlink":             sock(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE),
	"netlink-unread":      unreadNetlink,
	"netlink-group-34":    netlinkGroup,
	"packet":              sock(unix.AF_PACKET, unix.SOCK_RAW, 0x0300),
	"vsock":               sock(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"alg":                 sock(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
	"xdp":                 sock(unix.AF_XDP, unix.SOCK_RAW, 0),
	"sctp":                sock(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP),
	"mptcp":               sock(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP),
	"raw":                 sock(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	"ping":                sock(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP),
	"udp":                 sock(unix.AF_INET, unix.SOCK_DGRAM, 0),
	"udp-corked":          corked,
	"tcp-listening":       listening("0.0.0.0:7001"),
	"tcp-listening-local": listening("127.0.0.1:7002"),
	"tcp-connected":       connected,
	"namespace-mnt":       unshare(unix.CLONE_NEWNS),
	"namespace-uts":       unshare(unix.CLONE_NEWUTS),
	"namespace-ipc":       unshare(unix.CLONE_NEWIPC),
	"namespace-net":       unshare(unix.CLONE_NEWNET),
	"namespace-pid":       unshare(unix.CLONE_NEWPID),
	"namespace-user":      unshare(unix.CLONE_NEWUSER),
	"namespace-cgroup":    unshare(unix.CLONE_NEWCGROUP),
	"traced":              traced,
	"stopped":             stopped,
	"user": func() error {
		return errors.Join(syscall.Setresgid(65534, 65534, 65534), syscall.Setresuid(65534, 65534, 65534))
	},
}

func main() {
	hold, ok := kinds[os.Args[1]]
	if !ok {
		fmt.Println("no such kind")
		os.Exit(2)
	}
	said := "ready\n"
	if err := hold(); err != nil {
		said = "cannot: " + err.Error() + "\n"
	}
	if err := os.WriteFile(os.Args[2], []byte(said), 0o600); err != nil {
		os.Exit(1)
	}
	signal.Ignore(unix.SIGHUP)
	runtime.KeepAlive(kept)
	wait := make(chan os.Signal, 1)
	signal.Notify(wait, unix.SIGTERM)
	<-wait
}

// kept is what must not be collected.
var kept []any

func fd(open func() (int, error)) func() error {
	return func() error { _, err := open(); return err }
}

func open(path string) func() error {
	return fd(func() (int, error) { return unix.Open(path, unix.O_RDWR, 0) })
}

func call(number uintptr, args ...uintptr) func() (int, error) {
	return func() (int, error) {
		var a [3]uintptr
		copy(a[:], args)
		r, _, errno := unix.Syscall(number, a[0], a[1], a[2])
		if errno != 0 {
			return -1, errno
		}
		return int(r), nil
	}
}

func ioURing() (int, error) {
	params := make([]byte, 120)
	return call(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params[0])))()
}

// mappedIOURing has a ring mapped whose descriptor is closed.
func mappedIOURing() error {
	ring, err := ioURing()
	if err != nil {
		return err
	}
	m, err := unix.Mmap(ring, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	kept = append(kept, m)
	if err != nil {
		return err
	}
	return unix.Close(ring)
}

func perf() (int, error) {
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	return unix.PerfEventOpen(attr, os.Getpid(), -1, -1, 0)
}

func bpf(command int, attr []byte) (int, error) {
	return call(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))()
}

func bpfMap(kind uint32) func() (int, error) {
	return func() (int, error) {
		attr := make([]byte, 72)
		words := (*[4]uint32)(unsafe.Pointer(&attr[0]))
		words[0], words[1], words[2], words[3] = kind, 4, 8, 4
		if kind == unix.BPF_MAP_TYPE_RINGBUF {
			words[1], words[2], words[3] = 0, 0, 4096
		}
		return bpf(unix.BPF_MAP_CREATE, attr)
	}
}

func bpfProgram() (int, error) {
	code := []uint64{0x00000000000000b7, 0x0000000000000095} // r0 = 0; exit
	license := []byte("GPL\x00")
	attr := make([]byte, 128)
	*(*uint32)(unsafe.Pointer(&attr[0])) = unix.BPF_PROG_TYPE_SOCKET_FILTER
	*(*uint32)(unsafe.Pointer(&attr[4])) = uint32(len(code))
	*(*uint64)(unsafe.Pointer(&attr[8])) = uint64(uintptr(unsafe.Pointer(&code[0])))
	*(*uint64)(unsafe.Pointer(&attr[16])) = uint64(uintptr(unsafe.Pointer(&license[0])))
	n, err := bpf(unix.BPF_PROG_LOAD, attr)
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	return n, err
}

func landlock() (int, error) {
	attr := [1]uint64{1}
	return call(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), 8, 0)()
}

// seccompListener has a filter that lets everything pass, and its listener.
func seccompListener() (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000}}
	prog := unix.SockFprog{Len: 1, Filter: &filter[0]}
	return call(unix.SYS_SECCOMP, 1, 1<<3|1<<4, uintptr(unsafe.Pointer(&prog)))()
}

func fanotify() (int, error) {
	f, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF, 0)
	if err != nil {
		return -1, err
	}
	return f, unix.FanotifyMark(f, unix.FAN_MARK_ADD|unix.FAN_MARK_MOUNT, unix.FAN_OPEN, unix.AT_FDCWD, "/tmp")
}

func inotify(path string) func() error {
	return func() error {
		f, err := unix.InotifyInit1(0)
		if err != nil {
			return err
		}
		_, err = unix.InotifyAddWatch(f, path, unix.IN_DELETE_SELF)
		return err
	}
}

func messageQueue() (int, error) {
	name := append([]byte("held"), 0)
	r, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name[0])), unix.O_RDWR|unix.O_CREAT, 0o600, 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

func deletedFile() error {
	f, err := os.Create("/tmp/deleted")
	kept = append(kept, f)
	if err != nil {
		return err
	}
	return os.Remove("/tmp/deleted")
}

func lockedFile() error {
	f, err := os.Create("/tmp/locked")
	kept = append(kept, f)
	if err != nil {
		return err
	}
	return unix.Flock(int(f.Fd()), unix.LOCK_EX)
}

func attachedTun() error {
	f, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	request, err := unix.NewIfreq("held0")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(f, unix.TUNSETIFF, request)
}

func pty(keepMaster bool) func() error {
	return func() error {
		master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
		if errno != 0 {
			return errno
		}
		if keepMaster {
			return nil
		}
		_ = slave
		return giveAway(master)
	}
}

var idMapping = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}

func unshare(flag int) func() error {
	return func() error {
		child := exec.Command("/proc/self/exe", "nothing", "/tmp/child")
		child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: uintptr(flag)}
		if flag == unix.CLONE_NEWUSER {
			child.SysProcAttr.UidMappings = idMapping
			child.SysProcAttr.GidMappings = idMapping
		}
		return child.Start()
	}
}

func traced() error {
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		child := exec.Command("/usr/bin/sleep", "600")
		child.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
		err := child.Start()
		ready <- err
		select {}
	}()
	return <-ready
}

func stopped() error {
	child := exec.Command("/usr/bin/sleep", "600")
	if err := child.Start(); err != nil {
		return err
	}
	return child.Process.Signal(unix.SIGSTOP)
}
