package pagemap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// Category is what PAGEMAP_SCAN tells of a page, a set of the PAGE_IS_ bits of
// the kernel's include/uapi/linux/fs.h.
type Category uint64

const (
	// WPAllowed: the area is registered with a userfaultfd that write-protects
	// asynchronously. The same for all pages of an area, and the kernel skips
	// areas by it without walking them (pagemap_scan_is_interesting_vma).
	WPAllowed Category = 1 << 0
	// Written: no write-protection stands on the page. Meaningful only with
	// WPAllowed.
	Written Category = 1 << 1
	// FileBacked: the page belongs to a file or to shared memory.
	FileBacked Category = 1 << 2
	// Present: the page is in memory.
	Present Category = 1 << 3
	// Swapped: the page is in swap, or its place is held by a marker.
	Swapped Category = 1 << 4
	// ZeroPage: the page is the kernel's page of zeros.
	ZeroPage Category = 1 << 5
	// Huge: the page is part of a huge page.
	Huge Category = 1 << 6
	// SoftDirty: the page was written since the soft-dirty bits were cleared.
	SoftDirty Category = 1 << 7
	// Guard: MADV_GUARD_INSTALL made it. Kernels that do not know the bit
	// refuse it: use it only if ProbeGuard says so.
	Guard Category = 1 << 8
)

// Region is a run of pages of the same categories, the kernel's struct
// page_region.
type Region struct {
	Start, End uint64 // addresses in bytes
	Categories Category
}

// Pages is the number of pages of the region.
func (r Region) Pages() uint64 { return (r.End - r.Start) / pagestream.PageSize }

// Query says what a scan looks for: a page is found if, its categories xored
// with Inverted, all of Mask and any of AnyOf (unless that is zero) are set.
type Query struct {
	Start, End uint64 // addresses in bytes, of pages
	Protect    bool   // write-protect each page found that is Written; areas without WPAllowed are passed over
	Inverted   Category
	Mask       Category
	AnyOf      Category
	Return     Category // what of the categories the regions carry; pages that differ in it are different regions
}

// scanArg is the kernel's struct pm_scan_arg.
type scanArg struct {
	size       uint64
	flags      uint64
	start, end uint64
	walkEnd    uint64
	vec        uint64
	vecLen     uint64
	maxPages   uint64
	inverted   uint64
	mask       uint64
	anyOf      uint64
	returned   uint64
}

const (
	scanIoctl      = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)
	scanWPMatching = 1 << 0     // PM_SCAN_WP_MATCHING
)

// File is the pagemap of a process. It belongs to the memory that the process
// had at Open: after an exec it tells of memory that is gone, as empty.
type File struct {
	f   *os.File
	pid int
}

// Open opens the pagemap of the process.
func Open(pid int) (*File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, fmt.Errorf("pagemap of process %d: %w", pid, err)
	}
	return &File{f: f, pid: pid}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// Scan does one PAGEMAP_SCAN. It fills buf with the regions found, ascending,
// and returns how many there are and where the walk ended: at q.End, or before
// it because buf was full. The error of a scan that protects means that pages
// may have been protected and not been reported.
//
// The kernel's own walk_end is not to be trusted: once a call has found more
// than 512 regions it may be left at an address that the walk has passed
// (do_pagemap_scan in fs/proc/task_mmu.c sets it when its inner buffer is full,
// and not again when the walk ends).
func (f *File) Scan(q Query, buf []Region) (n int, walkEnd uint64, err error) {
	if len(buf) == 0 {
		// Without a vector the kernel would protect and tell nobody.
		return 0, q.Start, fmt.Errorf("scan of process %d: no room for regions: %w", f.pid, unix.EINVAL)
	}
	arg := scanArg{
		start:    q.Start,
		end:      q.End,
		vec:      uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))),
		vecLen:   uint64(len(buf)),
		inverted: uint64(q.Inverted),
		mask:     uint64(q.Mask),
		anyOf:    uint64(q.AnyOf),
		returned: uint64(q.Return),
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	if q.Protect {
		arg.flags = scanWPMatching
	}
	found, _, errno := unix.Syscall(unix.SYS_IOCTL, f.f.Fd(), scanIoctl, uintptr(unsafe.Pointer(&arg)))
	runtime.KeepAlive(buf)
	if errno != 0 {
		return 0, q.Start, fmt.Errorf("scan of process %d, %#x-%#x: %w", f.pid, q.Start, q.End, errno)
	}
	n = int(found)
	if n < len(buf) {
		return n, q.End, nil
	}
	return n, max(arg.walkEnd, buf[n-1].End), nil
}

// errStuck is a kernel that neither finds nor moves on.
var errStuck = errors.New("scan does not advance")

// Walk scans all of the query with as many calls as buf makes necessary, and
// gives each call's regions to visit. Regions of two calls may touch.
func (f *File) Walk(q Query, buf []Region, visit func([]Region)) error {
	for q.Start < q.End {
		n, end, err := f.Scan(q, buf)
		if err != nil {
			return err
		}
		if n > 0 {
			visit(buf[:n])
		}
		if end <= q.Start {
			return fmt.Errorf("scan of process %d at %#x: %w", f.pid, q.Start, errStuck)
		}
		q.Start = end
	}
	return nil
}

// Entry is what /proc/PID/pagemap says of one page (pagemap_pte_to_pagemap in
// the kernel's fs/proc/task_mmu.c).
type Entry uint64

// Present: the page is in memory.
func (e Entry) Present() bool { return e&(1<<63) != 0 }

// Swapped: the page is in swap, or its place is held by a marker.
func (e Entry) Swapped() bool { return e&(1<<62) != 0 }

// FileBacked: the page belongs to a file or to shared memory.
func (e Entry) FileBacked() bool { return e&(1<<61) != 0 }

// Guard: MADV_GUARD_INSTALL made it.
func (e Entry) Guard() bool { return e&(1<<58) != 0 }

// WriteProtected: a userfaultfd write-protects the page.
func (e Entry) WriteProtected() bool { return e&(1<<57) != 0 }

// SoftDirty: the page was written since the soft-dirty bits were cleared.
func (e Entry) SoftDirty() bool { return e&(1<<55) != 0 }

// Frame is the number of the page frame of a page that is Present; 0 for whoever
// lacks CAP_SYS_ADMIN.
func (e Entry) Frame() uint64 {
	if !e.Present() {
		return 0
	}
	return uint64(e) & (1<<55 - 1)
}

// ZeroFrame is the number of the frame that the kernel shows in private memory that
// was read and never written; 0 if it cannot be told, or there is none: kernels of some
// virtual machines give each page that is read a frame of its own, which becomes another
// page's one day. Two pages show one frame only if that is the page of zeros.
func ZeroFrame() uint64 {
	const pages = 2
	memory, err := unix.Mmap(-1, 0, pages*pagestream.PageSize, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0
	}
	defer unix.Munmap(memory)
	_ = unix.Madvise(memory, unix.MADV_NOHUGEPAGE)
	var entries [pages]Entry
	f, err := Open(os.Getpid())
	if err != nil || memory[0] != 0 || memory[pagestream.PageSize] != 0 {
		return 0
	}
	defer f.Close()
	if f.ReadEntries(address(memory), entries[:]) != nil || entries[0].Frame() != entries[1].Frame() {
		return 0
	}
	return entries[0].Frame()
}

// ReadEntries fills dst with the entries of the pages from address start on.
func (f *File) ReadEntries(start uint64, dst []Entry) error {
	if len(dst) == 0 {
		return nil
	}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(dst))), len(dst)*8)
	if _, err := f.f.ReadAt(raw, int64(start/pagestream.PageSize*8)); err != nil {
		return fmt.Errorf("pagemap of process %d at %#x: %w", f.pid, start, err)
	}
	return nil
}
