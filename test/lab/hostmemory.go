package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A virtual machine may report memory that is free to its host (virtio-balloon), which takes blocks of 2 MiB that were free for some seconds:
// whoever uses them next waits until the host has found some, ten times as long as for memory that the machine has (seen: 3.3 instead of
// 0.35 s for each GiB; moves of one build at 0.54 instead of 0.87 GB/s). A pod then stands still for its nodes' host.
const (
	// reportedOrder is the parameter of the kernel that says how large free blocks must be to be reported: pages, as a power of two
	// (mm/page_reporting.c).
	reportedOrder = "/sys/module/page_reporting/parameters/page_reporting_order"
	// reportedBefore keeps what it was, for as long as the kernel keeps what it is.
	reportedBefore = "/run/godwit-lab-page-reporting"
)

// KeepMemory has this machine keep its free memory, if its kernel reports that to a host, and gets back once what it has reported so far.
// It says whether the machine has all of its memory now; a kernel that cannot be told to keep it is no error. The returned function has the
// kernel report again, and has to be called before the process ends; if it dies first, the next one's does that.
func KeepMemory(ctx context.Context) (kept bool, release func() error, err error) {
	return keepMemory(reportedOrder, reportedBefore, "/proc/buddyinfo", func() error { return touchFree(ctx) })
}

func keepMemory(parameter, saved, blocks string, touch func() error) (kept bool, release func() error, err error) {
	nothing := func() error { return nil }
	before, err := os.ReadFile(parameter)
	if errors.Is(err, os.ErrNotExist) {
		return true, nothing, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("reported memory: %w", err)
	}
	never, err := beyondLargest(blocks)
	if err != nil {
		return false, nil, fmt.Errorf("reported memory: %w", err)
	}
	if strings.TrimSpace(string(before)) == never { // another's, or of one that died
		if b, err := os.ReadFile(saved); err == nil {
			before = b
		}
	} else if err := os.WriteFile(saved, before, 0o600); err != nil {
		return false, nil, fmt.Errorf("reported memory: %w", err)
	}
	if err := os.WriteFile(parameter, []byte(never), 0); err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) {
			return false, nothing, forget(saved)
		}
		return false, nil, fmt.Errorf("reported memory: %w", err)
	}
	release = func() error {
		return errors.Join(os.WriteFile(parameter, before, 0), forget(saved))
	}
	if err := touch(); err != nil {
		return false, nil, errors.Join(err, release())
	}
	return true, release, nil
}

// forget removes what a parameter was. Of two that keep memory at a time the second finds nothing.
func forget(saved string) error {
	if err := os.Remove(saved); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reported memory: %w", err)
	}
	return nil
}

// beyondLargest is one more than the order of the largest blocks that the kernel has: a line of /proc/buddyinfo has a column for each.
func beyondLargest(blocks string) (string, error) {
	b, err := os.ReadFile(blocks)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	_, columns, found := strings.Cut(line, "zone")
	orders := len(strings.Fields(columns)) - 1 // the first is the zone's name
	if !found || orders < 1 {
		return "", fmt.Errorf("%s: no orders in %q", blocks, line)
	}
	return strconv.Itoa(orders), nil
}

const (
	// spared is what others may want while free memory is touched, bytes.
	spared = 1 << 30
	// touchedAtOnce is how much of it is touched at a time, bytes.
	touchedAtOnce = 256 << 20
)

// touchFree uses all memory that is free, once, and gives it back.
func touchFree(ctx context.Context) (err error) {
	var held [][]byte
	defer func() {
		for _, m := range held {
			err = errors.Join(err, unix.Munmap(m))
		}
	}()
	for ctx.Err() == nil {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return fmt.Errorf("free memory: %w", err)
		}
		if info.Freeram*uint64(info.Unit) < spared+touchedAtOnce {
			return nil
		}
		m, err := touched(touchedAtOnce)
		if err != nil {
			return err
		}
		held = append(held, m)
	}
	return ctx.Err()
}

// TouchMemory gets so many bytes back from the host, which are free again when it returns: for a moment, unless KeepMemory keeps them.
func TouchMemory(bytes int) error {
	m, err := touched(bytes)
	if err != nil {
		return err
	}
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("free %d bytes: %w", bytes, err)
	}
	return nil
}

// touched is so much memory that this machine has. A host takes huge pages as a whole, so those are what must be touched: single pages
// would come out of blocks that are in use.
func touched(bytes int) ([]byte, error) {
	m, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", bytes, err)
	}
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE) // a kernel without huge pages has only the others to touch
	if err := unix.Madvise(m, unix.MADV_POPULATE_WRITE); err != nil {
		return nil, errors.Join(fmt.Errorf("touch %d bytes: %w", bytes, os.NewSyscallError("madvise", err)), unix.Munmap(m))
	}
	return m, nil
}
