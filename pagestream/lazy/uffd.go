package lazy

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

const pageSize = pagestream.PageSize

// Of include/uapi/linux/userfaultfd.h; the encoding is the same on all
// architectures whose _IOC has the generic layout.
const (
	uffdioAPI      = 0xc018aa3f
	uffdioRegister = 0xc020aa00
	uffdioWake     = 0x8010aa02
	uffdioCopy     = 0xc028aa03
	uffdioZero     = 0xc020aa04

	uffdAPI = 0xaa

	featureFork   = 1 << 1
	featureRemap  = 1 << 2
	featureRemove = 1 << 3
	featureUnmap  = 1 << 6
	// features are what CRIU asks for (criu/uffd.c, NEED_UFFD_API_FEATURES).
	features = featureFork | featureRemap | featureRemove | featureUnmap
)

// Events of a userfaultfd.
const (
	eventFault  = 0x12
	eventFork   = 0x13
	eventRemap  = 0x14
	eventRemove = 0x15
	eventUnmap  = 0x16
	// eventServer is the journal's own: the events behind it were read by the
	// server with the number a.
	eventServer = 0xf1
)

// msgSize is the size of struct uffd_msg.
const msgSize = 32

// event is a struct uffd_msg. What a, b and c mean depends on kind.
type event struct {
	kind    uint8
	a, b, c uint64
}

func decodeEvent(m []byte) event {
	return event{m[0], binary.NativeEndian.Uint64(m[8:]), binary.NativeEndian.Uint64(m[16:]), binary.NativeEndian.Uint64(m[24:])}
}

// fault is the page that a thread waits for.
func (e event) fault() uint64 { return e.b &^ (pageSize - 1) }

// child is the descriptor of a forked child's userfaultfd.
func (e event) child() int { return int(int32(uint32(e.a))) }

// Probe says whether this kernel can restore lazily: userfaultfd with events, and
// the right to use it for faults in the kernel, which CRIU needs.
func Probe() error {
	fd, err := newUserfaultfd()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// newUserfaultfd makes a userfaultfd of this process the way CRIU does
// (criu/uffd.c, uffd_open).
func newUserfaultfd() (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return -1, fmt.Errorf("userfaultfd: %w: needs CONFIG_USERFAULTFD, and CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1", errno)
	}
	api := struct{ api, features, ioctls uint64 }{api: uffdAPI, features: features}
	if errno := ioctl(int(fd), uffdioAPI, unsafe.Pointer(&api)); errno != 0 {
		unix.Close(int(fd))
		return -1, fmt.Errorf("userfaultfd: the kernel does not tell of fork, remap, remove and unmap: %w", errno)
	}
	return int(fd), nil
}

// ioctl does not tell the scheduler: the calls below take microseconds, and a
// hand-over on the way back would cost more.
func ioctl(fd int, req uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg))
	return errno
}

// uffdCopy fills pages at dst with data. It returns the bytes that were copied,
// whether or not there was an error.
func uffdCopy(fd int, dst uint64, data []byte) (uint64, unix.Errno) {
	arg := struct {
		dst, src, len, mode uint64
		copied              int64
	}{dst: dst, src: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(data)))), len: uint64(len(data))}
	errno := ioctl(fd, uffdioCopy, unsafe.Pointer(&arg))
	return uint64(max(arg.copied, 0)), errno
}

// uffdZero maps zero pages. It returns the bytes that were mapped, whether or not
// there was an error.
func uffdZero(fd int, dst, n uint64) (uint64, unix.Errno) {
	arg := struct {
		start, len, mode uint64
		zeroed           int64
	}{start: dst, len: n}
	errno := ioctl(fd, uffdioZero, unsafe.Pointer(&arg))
	return uint64(max(arg.zeroed, 0)), errno
}

// uffdWake has the threads that wait for pages of a range look again.
func uffdWake(fd int, start, n uint64) unix.Errno {
	arg := struct{ start, len uint64 }{start, n}
	return ioctl(fd, uffdioWake, unsafe.Pointer(&arg))
}

// wakeAll has all waiting threads look again. The kernel takes only ranges within
// the address space, whose size depends on the machine and the process
// (fs/userfaultfd.c, validate_range).
func wakeAll(fd int) {
	const lowest = 1 << 16 // at or over any usual vm.mmap_min_addr
	for _, top := range []uint64{1 << 56, 1 << 48, 1 << 47, 1 << 39, 1 << 32} {
		for _, top := range []uint64{top, top - pageSize} {
			if uffdWake(fd, lowest, top-lowest) == 0 {
				return
			}
		}
	}
}

// readEvents reads events into b, as many as there are. It returns their number.
func readEvents(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n) / msgSize, 0
}
