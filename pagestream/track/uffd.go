package track

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's include/uapi/linux/userfaultfd.h, as far as write-protection
// needs it.
const (
	uffdAPI            = 0xaa
	uffdFeatureWPAsync = 1 << 15

	uffdioAPI          = 0xc018aa3f
	uffdioRegister     = 0xc020aa00
	uffdioWriteProtect = 0xc018aa06

	uffdRegisterWP   = 1 << 1 // UFFDIO_REGISTER_MODE_WP
	uffdWPNoWake     = 1 << 1 // UFFDIO_WRITEPROTECT_MODE_DONTWAKE
	kcmpVM           = 1      // KCMP_VM
	sysKcmp          = unix.SYS_KCMP
	closedDescriptor = -1
)

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// handshake makes a fresh userfaultfd one that write-protects asynchronously. No
// events are asked for: the process never waits for us, and memory that moves or
// is inherited loses its registration (mremap_userfaultfd_prep and
// dup_userfaultfd in the kernel's fs/userfaultfd.c).
func handshake(fd int) error {
	arg := struct{ api, features, ioctls uint64 }{uffdAPI, uffdFeatureWPAsync, 0}
	return ioctl(fd, uffdioAPI, unsafe.Pointer(&arg))
}

// register puts the areas in s under write-protection of fd. A page is protected
// only once it is scanned. EBUSY says that another userfaultfd has the area,
// ENOMEM may mean that fd's address space is gone (userfaultfd_register in the
// kernel's fs/userfaultfd.c), which unprotect says clearly, by ESRCH.
func register(fd int, s span) error {
	arg := struct{ start, length, mode, ioctls uint64 }{s.start, s.end - s.start, uffdRegisterWP, 0}
	return ioctl(fd, uffdioRegister, unsafe.Pointer(&arg))
}

// unprotect takes the protection off every page in s, so that all of them read
// as written. (Protecting by the same call would leave markers where no page is,
// which CRIU would take for pages; so that is left to PAGEMAP_SCAN.)
func unprotect(fd int, s span) error {
	arg := struct{ start, length, mode uint64 }{s.start, s.end - s.start, uffdWPNoWake}
	for {
		// EAGAIN: the process is changing its areas at this moment.
		if err := ioctl(fd, uffdioWriteProtect, unsafe.Pointer(&arg)); err != unix.EAGAIN && err != unix.EINTR {
			return err
		}
	}
}

// sameMemory says whether two processes share their address space.
func sameMemory(pid1, pid2 int) bool {
	order, _, errno := unix.Syscall6(sysKcmp, uintptr(pid1), uintptr(pid2), kcmpVM, 0, 0, 0)
	return errno == 0 && order == 0
}
