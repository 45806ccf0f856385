// Package timerslack says how late threads may wake from a sleep, and so has Go's runtime look after itself less often.
//
// As long as any goroutine of a process is at work, a thread of the runtime's, sysmon, wakes every 20 microseconds, and less often only after a
// millisecond: to take processors from goroutines that wait in system calls, or run for long. Of a moment in which many processes do a little
// each, that takes several parts in a hundred. How late a thread may wake from a sleep is the kernel's to choose, within its timer slack
// (prctl(2), PR_SET_TIMERSLACK), 50 microseconds if nobody has set another. Threads and processes have that of the thread that starts them.
package timerslack

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Widen lets all threads of this process but the calling one, which should be locked to its goroutine, oversleep by so much. Threads that these start
// may as well, and so may processes that are started by any: who starts others' programs has these oversleep Usually. It takes CAP_SYS_NICE.
func Widen(by time.Duration) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("threads of this process: %w", err)
	}
	self := strconv.Itoa(unix.Gettid())
	for _, t := range threads {
		if t.Name() == self {
			continue
		}
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return fmt.Errorf("threads of this process: %w", err)
		}
		if err := Set(tid, uint64(by.Nanoseconds())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
