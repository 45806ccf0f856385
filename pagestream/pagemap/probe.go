package pagemap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// ErrNoPagemapScan says that the kernel cannot scan a pagemap.
var ErrNoPagemapScan = errors.New("kernel lacks PAGEMAP_SCAN: use Linux 6.7 or later, with CONFIG_PROC_PAGE_MONITOR")

// ErrNoWPAsync says that the kernel cannot write-protect without stopping the
// writer.
var ErrNoWPAsync = errors.New("kernel lacks asynchronous write-protection by userfaultfd: " +
	"use Linux 6.7 or later with CONFIG_USERFAULTFD, on an architecture that has userfaultfd write-protection")

// ErrNoGuard says that PAGEMAP_SCAN does not tell guard regions.
var ErrNoGuard = errors.New("kernel's PAGEMAP_SCAN does not tell guard regions: use Linux 6.15 or later if programs use MADV_GUARD_INSTALL")

// ProbeScan returns nil if the kernel has PAGEMAP_SCAN, and an error wrapping
// ErrNoPagemapScan if not. It asks once.
var ProbeScan = sync.OnceValue(func() error {
	if err := scanSelf(Present); err != nil {
		return fmt.Errorf("%w (%w)", ErrNoPagemapScan, err)
	}
	return nil
})

// ProbeGuard returns nil if Query may use Guard, and an error wrapping
// ErrNoGuard if not. It asks once.
var ProbeGuard = sync.OnceValue(func() error {
	if err := scanSelf(Present | Guard); err != nil {
		return fmt.Errorf("%w (%w)", ErrNoGuard, err)
	}
	return nil
})

// madvGuardInstall is MADV_GUARD_INSTALL of asm-generic/mman-common.h.
const madvGuardInstall = 102

// HaveGuards says whether programs can make guard regions, as from Linux 6.13 on
// (mm/madvise.c, madvise_guard_install). It asks once.
var HaveGuards = sync.OnceValue(func() bool {
	page, err := unix.Mmap(-1, 0, pagestream.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return true
	}
	defer unix.Munmap(page)
	return !errors.Is(unix.Madvise(page, madvGuardInstall), unix.EINVAL)
})

// scanSelf scans one page of our own for any of the categories.
func scanSelf(any Category) error {
	page := make([]byte, 2*pagestream.PageSize)
	addr := address(page)
	addr = (addr + pagestream.PageSize - 1) &^ (pagestream.PageSize - 1)
	f, err := Open(os.Getpid())
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = f.Scan(Query{Start: addr, End: addr + pagestream.PageSize, AnyOf: any, Return: any}, make([]Region, 1))
	runtime.KeepAlive(page)
	return err
}

// address is where memory of our own is.
func address(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) }

// The kernel's include/uapi/linux/userfaultfd.h, as far as the probe needs it.
const (
	uffdUserModeOnly = 1
	uffdAPI          = 0xaa
	uffdFeatureAsync = 1 << 15    // UFFD_FEATURE_WP_ASYNC
	uffdioAPI        = 0xc018aa3f // UFFDIO_API
)

// ProbeWPAsync returns nil if a userfaultfd can write-protect asynchronously,
// and an error wrapping ErrNoWPAsync if not. It asks once.
var ProbeWPAsync = sync.OnceValue(func() error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		return fmt.Errorf("%w (userfaultfd: %w)", ErrNoWPAsync, errno)
	}
	defer unix.Close(int(fd))
	api := struct{ api, features, ioctls uint64 }{uffdAPI, uffdFeatureAsync, 0}
	if _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uffdioAPI, uintptr(unsafe.Pointer(&api))); errno != 0 {
		return fmt.Errorf("%w (UFFDIO_API: %w)", ErrNoWPAsync, errno)
	}
	return nil
})
