package timerslack

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usual is what all threads have of which nobody ever said otherwise (kernel: init/init_task.c).
const Usual = 50 * time.Microsecond

// Usually has the calling thread, which should be locked to its goroutine, and whatever it executes or starts, oversleep by what is usual.
func Usually() error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(Usual.Nanoseconds()), 0, 0, 0); err != nil {
		return fmt.Errorf("timer slack: %w", err)
	}
	return nil
}

// Of is by how much a thread may oversleep, in nanoseconds; it may have more of them than a time.Duration has. For a thread that is gone, and on a
// kernel that does not tell (before Linux 4.6), the error wraps os.ErrNotExist.
func Of(tid int) (uint64, error) {
	text, err := os.ReadFile(file(tid))
	if err != nil {
		return 0, fmt.Errorf("timer slack of a thread: %w", gone(err))
	}
	by, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("timer slack of thread %d: %w", tid, err)
	}
	return by, nil
}

// Set lets another thread oversleep by so many nanoseconds. It takes CAP_SYS_NICE. The error is as Of's.
func Set(tid int, by uint64) error {
	if err := os.WriteFile(file(tid), strconv.AppendUint(nil, by, 10), 0); err != nil {
		return fmt.Errorf("timer slack of a thread: %w", gone(err))
	}
	return nil
}

// gone makes one of what the kernel says of a thread that ended before its file was opened, and after that (fs/proc/base.c,
// timerslack_ns_write and timerslack_ns_show).
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %w", err, os.ErrNotExist)
	}
	return err
}

// file tells and takes a thread's timer slack. Each thread has a directory of its own in /proc, which is not listed.
func file(tid int) string { return "/proc/" + strconv.Itoa(tid) + "/timerslack_ns" }
