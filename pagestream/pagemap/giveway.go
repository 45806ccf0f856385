package pagemap

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// wayGiven is by how much the nice value of a thread grows that gives way.
const wayGiven = 10

// GiveWay calls work on a thread that gives way to others. A scan of much memory takes a processor for milliseconds; who is woken
// meanwhile for a moment, such as CRIU and the code that it runs in a frozen process, which wake each other in turns, would
// else wait for the end of its time slice each time.
func GiveWay(work func()) {
	done := make(chan struct{})
	go func() { // of its own, so that a thread which cannot be as it was ends with it
		defer close(done)
		runtime.LockOSThread()
		thread := unix.Gettid()
		before, err := nice(thread)
		if err != nil || unix.Setpriority(unix.PRIO_PROCESS, thread, before+wayGiven) != nil {
			runtime.UnlockOSThread()
			work()
			return
		}
		work()
		if unix.Setpriority(unix.PRIO_PROCESS, thread, before) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
}

// nice is a thread's nice value. The system call has 20 less it (getpriority(2), "C library/kernel differences").
func nice(thread int) (int, error) {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, thread)
	return 20 - n, err
}
