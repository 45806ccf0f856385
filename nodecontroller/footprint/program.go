package footprint

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Resident is what the process has resident, bytes: statm of proc_pid_statm(5).
func Resident() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0, fmt.Errorf("resident memory: statm is %q", text)
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	return pages * uint64(os.Getpagesize()), nil
}

// unmapProgram unmaps the pages of the program's file, code that runs among them: the next use maps them again.
func unmapProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("pages of the program: %w", err)
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("pages of the program: %w", err)
	}
	areas, err := cleanAreas(bytes.NewReader(maps), program)
	if err != nil {
		return err
	}
	for _, a := range areas {
		if err := madvise(a, unix.MADV_DONTNEED); err != nil {
			return fmt.Errorf("pages of the program from %#x: %w", a.from, err)
		}
	}
	return nil
}

// area is one of the process's mappings, from an address up to another.
type area struct{ from, to uint64 }

// madvise is unix.Madvise for memory that no slice of Go's is.
func madvise(a area, advice int) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(a.from), uintptr(a.to-a.from), uintptr(advice)); errno != 0 {
		return os.NewSyscallError("madvise", errno)
	}
	return nil
}

// errSmaps is wrapped by the error for what is no proc_pid_smaps(5).
var errSmaps = errors.New("smaps is not as expected")

// cleanAreas finds the areas of smaps that are a program's file and nothing else: private and never writable, and without pages
// of the process's own. A program that is relocated when it starts, or that a debugger has breakpoints in, has such pages, and
// would lose them.
func cleanAreas(smaps io.Reader, program string) ([]area, error) {
	var found []area
	candidate := area{} // until its Anonymous line comes
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 0:
		case !strings.HasSuffix(f[0], ":"):
			var err error
			if candidate, err = readOnly(lines.Text(), f, program); err != nil {
				return nil, err
			}
		case f[0] == "Anonymous:" && candidate.to > 0:
			if len(f) > 1 && f[1] == "0" {
				found = append(found, candidate)
			}
			candidate = area{}
		}
	}
	return found, lines.Err()
}

// readOnly reads the first line of an area; an empty area for one that is not of the program's file, or that can be written to.
func readOnly(line string, f []string, program string) (area, error) {
	var a area
	// The six columns are apart by single blanks, but for the path, which may have blanks itself.
	if len(f) < 6 || !strings.HasSuffix(line, " "+program) || strings.Join(f[5:], " ") != strings.Join(strings.Fields(program), " ") {
		return a, nil
	}
	if f[1] != "r-xp" && f[1] != "r--p" {
		return a, nil
	}
	from, to, ok := strings.Cut(f[0], "-")
	var err1, err2 error
	a.from, err1 = strconv.ParseUint(from, 16, 64)
	a.to, err2 = strconv.ParseUint(to, 16, 64)
	if err := errors.Join(err1, err2); err != nil || !ok || a.to <= a.from {
		return area{}, fmt.Errorf("%w: %q", errSmaps, line)
	}
	return a, nil
}
