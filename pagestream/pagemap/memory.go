package pagemap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// ErrGone says that the process has no memory any more: it ended.
var ErrGone = errors.New("process is gone")

const (
	// maxVectors is UIO_MAXIOV, the most ranges that process_vm_readv takes.
	maxVectors = 1024
	// maxRead bounds one process_vm_readv, well below the 2 GiB (MAX_RW_COUNT)
	// at which the kernel cuts a call short.
	maxRead = 256 << 20
	// maxForced bounds one read of pages that process_vm_readv refuses, after
	// which the fast way is tried again.
	maxForced = 1 << 20
)

// vectors is the argument of one process_vm_readv, kept for the next one.
type vectors struct {
	local  [1]unix.Iovec
	remote [maxVectors]unix.RemoteIovec
}

var vectorPool = sync.Pool{New: func() any { return new(vectors) }}

// ReadMemory copies the pages of ranges out of the process into buf, one range
// after the other without gaps. buf must hold them all. The process may run
// meanwhile. Pages that it may not read itself (PROT_NONE) are read as well.
// Pages that are not there any more, or cannot be read (guard pages, device
// memory), come back as missing, their place in buf filled with zeros. The
// error wraps ErrGone if the process ended.
func ReadMemory(pid int, ranges []pagestream.Range, buf []byte) (missing []pagestream.Range, err error) {
	var total uint64
	for _, r := range ranges {
		if err := r.Valid(); err != nil {
			return nil, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		total += r.Bytes()
	}
	if total > uint64(len(buf)) {
		return nil, fmt.Errorf("memory of process %d: %d bytes do not fit into a buffer of %d", pid, total, len(buf))
	}
	v := vectorPool.Get().(*vectors)
	defer vectorPool.Put(v)
	slow := slowReader{pid: pid}
	defer slow.close()

	next := cursor{ranges: ranges}
	for buf = buf[:total]; len(buf) > 0; {
		want, n := next.fill(v.remote[:])
		got, err := readv(pid, v, n, buf[:want])
		if err != nil {
			return slow.missing, err
		}
		buf = buf[got:]
		next.skip(got)
		if got == want {
			continue
		}
		// The page at the cursor refused.
		got, err = slow.read(next.addr(), buf[:min(next.left(), maxForced)])
		if err != nil {
			return slow.missing, err
		}
		buf = buf[got:]
		next.skip(got)
	}
	return slow.missing, nil
}

// readv reads n vectors into buf and returns how many whole pages came, fewer
// than wanted if the page after them cannot be read.
func readv(pid int, v *vectors, n int, buf []byte) (uint64, error) {
	v.local[0].Base = unsafe.SliceData(buf)
	v.local[0].SetLen(len(buf))
	got, err := unix.ProcessVMReadv(pid, v.local[:], v.remote[:n], 0)
	runtime.KeepAlive(buf)
	v.local[0].Base = nil
	switch {
	case err == nil:
		return uint64(got) &^ (pagestream.PageSize - 1), nil
	case errors.Is(err, unix.EFAULT):
		return 0, nil
	case errors.Is(err, unix.ESRCH):
		return 0, fmt.Errorf("memory of process %d: %w", pid, ErrGone)
	}
	return 0, fmt.Errorf("memory of process %d: process_vm_readv: %w", pid, err)
}

// cursor walks over the bytes of ranges.
type cursor struct {
	ranges []pagestream.Range
	done   uint64 // bytes of the first range that are behind
}

func (c *cursor) addr() uint64 { return c.ranges[0].Start + c.done }

// left is what the first range has ahead, in bytes.
func (c *cursor) left() uint64 { return c.ranges[0].Bytes() - c.done }

func (c *cursor) skip(n uint64) {
	for n > 0 {
		if n < c.left() {
			c.done += n
			return
		}
		n -= c.left()
		c.ranges, c.done = c.ranges[1:], 0
	}
}

// fill writes what is ahead, up to maxRead bytes, into vectors and returns the
// bytes and the vectors used. It does not move.
func (c *cursor) fill(v []unix.RemoteIovec) (bytes uint64, n int) {
	done := c.done
	for _, r := range c.ranges {
		if n == len(v) || bytes == maxRead {
			break
		}
		size := min(r.Bytes()-done, maxRead-bytes)
		v[n] = unix.RemoteIovec{Base: uintptr(r.Start + done), Len: int(size)}
		bytes += size
		n++
		done = 0
	}
	return bytes, n
}

// slowReader reads, through /proc/PID/mem, the pages that process_vm_readv
// refuses: that file reads over the permissions of an area (FOLL_FORCE in
// mem_rw of the kernel's fs/proc/base.c). It remembers what it cannot read
// either.
type slowReader struct {
	pid     int
	mem     *os.File
	areas   []VMA
	missing []pagestream.Range
}

func (s *slowReader) close() {
	if s.mem != nil {
		s.mem.Close()
	}
}

// read fills buf, or a part of it from its start, with the memory at addr; pages
// that do not exist count as read.
func (s *slowReader) read(addr uint64, buf []byte) (uint64, error) {
	if s.mem == nil {
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", s.pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return 0, fmt.Errorf("memory of process %d: %w", s.pid, ErrGone)
		}
		if err != nil {
			return 0, fmt.Errorf("memory of process %d: %w", s.pid, err)
		}
		s.mem = mem
	}
	n, err := unix.Pread(int(s.mem.Fd()), buf, int64(addr))
	if n = max(n, 0) &^ (pagestream.PageSize - 1); n > 0 {
		return uint64(n), nil
	}
	if err != nil && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EFAULT) {
		return 0, fmt.Errorf("memory of process %d at %#x: %w", s.pid, addr, err)
	}
	return s.skip(addr, buf)
}

// skip counts the page at addr as missing, and with it all pages up to the next
// area if no area is there: a page at a time would take as many calls as a
// large area had pages when the process unmapped it.
func (s *slowReader) skip(addr uint64, buf []byte) (uint64, error) {
	if s.areas == nil {
		areas, _, err := ReadMaps(s.pid, nil, nil)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || (err == nil && len(areas) == 0) {
			return 0, fmt.Errorf("memory of process %d: %w", s.pid, ErrGone)
		}
		if err != nil {
			return 0, err
		}
		s.areas = areas
	}
	size := uint64(len(buf))
	for _, v := range s.areas {
		if v.End <= addr {
			continue
		}
		if v.Start <= addr {
			size = pagestream.PageSize
		} else {
			size = min(size, v.Start-addr)
		}
		break
	}
	clear(buf[:size])
	pages := size / pagestream.PageSize
	if n := len(s.missing); n > 0 && s.missing[n-1].End() == addr {
		s.missing[n-1].Pages += pages
	} else {
		s.missing = append(s.missing, pagestream.Range{Start: addr, Pages: pages})
	}
	return size, nil
}
