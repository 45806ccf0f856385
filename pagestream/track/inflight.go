package track

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// Devices write past the page tables. A thread that reads a file with O_DIRECT
// hands its pages to the device; that counts as a write when it does so, but a
// round that comes while the device is at work write-protects the pages again,
// they are copied, the data arrives, and nobody ever hears of it. (Clearing the
// soft-dirty bits spares such pages, pte_is_pinned in the kernel's
// fs/proc/task_mmu.c; PAGEMAP_SCAN does not.) So each round looks, after it has
// protected the pages and before they are copied, which of them may be in the
// hands of a device, and the next round reports those again:
//
//   - the buffer of each thread that waits in read(2) or its kin on such a file:
//     /proc/PID/task/TID/syscall tells it;
//   - of a thread that runs whenever it is looked at, and could be on its way
//     into such a read: all pages that were reported as written since it was last
//     seen elsewhere, and the buffer that it was seen with then;
//   - all pages that the last two rounds reported as written, if the process has
//     an AIO ring or an io_uring, whose requests cannot be listed. A request that
//     takes longer than two rounds would still escape; CRIU does not dump an
//     io_uring at all.
//
// Frozen processes have no read under way: the freezer waits for the end of it.

// inFlight is what is known of a process' pages in the hands of devices.
type inFlight struct {
	round   int
	readers map[string]reader // by thread id, only those that may have handed out pages
	history []handedOut       // what readers may have handed out, and what a ring may
}

// reader is a thread that may wait for a device.
type reader struct {
	buffers []pagestream.Range
	running bool
	since   int // if running, the first round whose written pages it may have handed out
}

// handedOut are the pages that a round reported as written.
type handedOut struct {
	round   int
	written []pagestream.Range
}

const (
	// looks is how often a thread that runs is looked at again, and lookAgain
	// after what time.
	looks     = 5
	lookAgain = 200 * time.Microsecond
	// maxBuffers bounds the buffers of one readv (UIO_MAXIOV).
	maxBuffers = 1024
)

// update looks at the process and returns the pages that the next round must
// report, ascending and disjoint. written are those that this one reports as
// written.
func (f *inFlight) update(pid int, vmas []pagemap.VMA, written []pagestream.Range) []pagestream.Range {
	f.round++
	f.look(pid)
	oldest := f.round + 1
	if hasRing(vmas) {
		oldest = f.round - 1
	}
	var buffers []pagestream.Range
	for _, r := range f.readers {
		buffers = append(buffers, r.buffers...)
		if r.running {
			oldest = min(oldest, r.since)
		}
	}
	slices.SortFunc(buffers, compareStarts)
	suspects := mergeOverlaps(buffers)
	f.history = append(f.history, handedOut{f.round, written})
	f.history = slices.DeleteFunc(f.history, func(h handedOut) bool { return h.round < min(oldest, f.round) })
	for _, h := range f.history {
		if h.round >= oldest {
			suspects = pagestream.Union(suspects, h.written)
		}
	}
	return suspects
}

// look brings the readers up to date.
func (f *inFlight) look(pid int) {
	before := f.readers
	f.readers = map[string]reader{}
	running := f.lookAt(pid, threadsOf(pid))
	for range looks {
		if len(running) == 0 {
			return
		}
		time.Sleep(lookAgain)
		running = f.lookAt(pid, running)
	}
	if len(running) == 0 || !readsDirectly(pid) {
		return
	}
	for _, tid := range running {
		r := before[tid]
		if !r.running {
			r.running, r.since = true, f.round
		}
		f.readers[tid] = r
	}
}

// lookAt notes which threads wait for a device, and returns those that run.
func (f *inFlight) lookAt(pid int, tids []string) (running []string) {
	for _, tid := range tids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/syscall", pid, tid))
		if err != nil {
			continue // it ended
		}
		if bytes.HasPrefix(text, []byte("running")) {
			running = append(running, tid)
			continue
		}
		call, ok := parseSyscall(string(text))
		if !ok || !isRead[call.nr] || !isDirect(pid, strconv.Itoa(int(int32(call.args[0])))) {
			continue
		}
		var r reader
		switch call.nr {
		case unix.SYS_READ, unix.SYS_PREAD64:
			r.add(call.args[1], call.args[2])
		default:
			for _, v := range remoteVectors(pid, call.args[1], call.args[2]) {
				r.add(uint64(v.Base), uint64(v.Len))
			}
		}
		f.readers[tid] = r
	}
	return running
}

var isRead = map[int]bool{
	unix.SYS_READ: true, unix.SYS_PREAD64: true,
	unix.SYS_READV: true, unix.SYS_PREADV: true, unix.SYS_PREADV2: true,
}

func threadsOf(pid int) []string {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	return names
}

// add adds a buffer, whose address and length are the process' own idea.
func (r *reader) add(addr, size uint64) {
	if size == 0 || addr >= pagestream.MaxAddress || size > pagestream.MaxAddress-addr-pagestream.PageSize {
		return
	}
	start := addr &^ (pagestream.PageSize - 1)
	r.buffers = append(r.buffers, pagestream.Range{Start: start, Pages: (addr + size - start + pagestream.PageSize - 1) / pagestream.PageSize})
}

// systemCall is a system call that a thread waits in.
type systemCall struct {
	nr   int
	args [6]uint64
}

// parseSyscall reads /proc/PID/task/TID/syscall, "nr arg... sp pc" (
// proc_pid_syscall in the kernel's fs/proc/base.c). ok is false for a thread that
// waits but not in a system call.
func parseSyscall(text string) (c systemCall, ok bool) {
	fields := strings.Fields(text)
	if len(fields) < 1+len(c.args) {
		return c, false
	}
	nr, err := strconv.Atoi(fields[0])
	if err != nil || nr < 0 {
		return c, false
	}
	c.nr = nr
	for i := range c.args {
		if c.args[i], err = strconv.ParseUint(strings.TrimPrefix(fields[1+i], "0x"), 16, 64); err != nil {
			return c, false
		}
	}
	return c, true
}

// remoteVectors reads an array of struct iovec of the process.
func remoteVectors(pid int, addr, n uint64) []unix.RemoteIovec {
	vectors := make([]unix.RemoteIovec, min(n, maxBuffers))
	if len(vectors) == 0 {
		return nil
	}
	size := len(vectors) * int(unsafe.Sizeof(vectors[0]))
	got := readCode(pid, addr, unsafe.Slice((*byte)(unsafe.Pointer(&vectors[0])), size))
	return vectors[:got/int(unsafe.Sizeof(vectors[0]))]
}

// readsDirectly says whether the process has a file open that isDirect.
func readsDirectly(pid int) bool {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return false
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	return slices.ContainsFunc(names, func(fd string) bool { return isDirect(pid, fd) })
}

// cached are file systems that fill a buffer from the page cache, by the
// processor, unless O_DIRECT is set. Others may hand pages out whatever the flags
// of the file are: FUSE with direct_io, 9p without a cache.
var cached = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true, unix.SQUASHFS_MAGIC: true,
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true,
	unix.CGROUP2_SUPER_MAGIC: true, unix.DEVPTS_SUPER_MAGIC: true, unix.RAMFS_MAGIC: true,
}

// isDirect says whether a read from the descriptor hands pages to a device.
// Pipes, sockets and character devices are copied by the processor.
func isDirect(pid int, fd string) bool {
	path := fmt.Sprintf("/proc/%d/fd/%s", pid, fd)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return true // closed meanwhile, a read of it may go on
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return false
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err == nil && openFlags(string(info))&unix.O_DIRECT != 0 {
		return true
	}
	var fs unix.Statfs_t
	return kind == unix.S_IFREG && unix.Statfs(path, &fs) == nil && !cached[int64(fs.Type)]
}

// openFlags reads the flags out of /proc/PID/fdinfo/FD.
func openFlags(info string) uint64 {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, _ := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			return flags
		}
	}
	return 0
}

// hasRing says whether the process has requests that run without a thread.
func hasRing(vmas []pagemap.VMA) bool {
	for _, v := range vmas {
		if strings.HasPrefix(v.Path, "/[aio]") || strings.HasPrefix(v.Path, "anon_inode:[io_uring]") {
			return true
		}
	}
	return false
}
