package lazy

import (
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// wholeArea is up to which size all pages of an area are made, in bytes: that of the heap's first part.
	wholeArea = 4 << 20
	// maxArea is up to which size an area is looked at. Larger ones are reserved, hardly used.
	maxArea = 1 << 30
)

// ownPages makes the pages that a fork has shared with the holder the server's own: else each is copied when it is written to first,
// and most of them would be while a pod stands still. The heap's first pages are there then, too. That a kernel before Linux 5.14 cannot
// do so (madvise(2), MADV_POPULATE_WRITE) costs time, and nothing else.
func ownPages() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		start, end, ok := writableArea(line)
		switch {
		case !ok || end-start > maxArea:
		case end-start <= wholeArea:
			populate(start, end)
		default:
			ownPresent(start, end)
		}
	}
}

// writableArea reads a line of maps (proc_pid_maps(5)); false if the area is none of private memory that is written to.
func writableArea(line string) (start, end uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[1] != "rw-p" {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	a, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return 0, 0, false
	}
	b, err := strconv.ParseUint(to, 16, 64)
	return uintptr(a), uintptr(b), err == nil && b > a
}

// ownPresent is populate for the pages of an area that are there.
func ownPresent(start, end uintptr) {
	there := make([]byte, (end-start)/pageSize)
	if _, _, errno := unix.RawSyscall(unix.SYS_MINCORE, start, end-start, uintptr(unsafe.Pointer(unsafe.SliceData(there)))); errno != 0 {
		return
	}
	for i := 0; i < len(there); i++ {
		first := i
		for i < len(there) && there[i]&1 != 0 {
			i++
		}
		if i > first {
			populate(start+uintptr(first)*pageSize, start+uintptr(i)*pageSize)
		}
	}
}

// populate works on addresses: most of this is the runtime's own memory, and no object of the program.
func populate(start, end uintptr) {
	_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, start, end-start, unix.MADV_POPULATE_WRITE)
}
