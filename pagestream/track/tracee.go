//go:build amd64

package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracee is a thread of another process that the calling thread traces. All
// methods belong to that thread.
//
// States: attached (runs, or is on its way into a stop) -> stopped <-> running a
// piece of ours -> detached; from each of them -> ended, when it was killed.
type tracee struct {
	pid, tid int
	ended    bool           // it is no more, nothing is traced
	chld     chan os.Signal // SIGCHLD, which tells of its stops
}

// ptraceEventStop is PTRACE_EVENT_STOP, the event of a stop that we asked for or
// that stops the whole process.
const ptraceEventStop = 128

// ptrace is the raw call, for the requests that package unix has no function
// for.
func ptrace(request, tid int, addr uintptr, data unsafe.Pointer) (uintptr, error) {
	r, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, uintptr(data), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}

// seize attaches to the thread without stopping it. Should we die, the kernel
// lets it go: PTRACE_O_EXITKILL is never set.
func seize(pid, tid int) (*tracee, error) {
	t := &tracee{pid: pid, tid: tid, chld: make(chan os.Signal, 1)}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, unix.PTRACE_O_TRACESYSGOOD, 0, 0)
	switch errno {
	case 0:
		signal.Notify(t.chld, unix.SIGCHLD)
		return t, nil
	case unix.EPERM:
		return nil, seizeRefused(pid, tid)
	}
	return nil, gone(errno)
}

// seizeRefused tells the reasons of PTRACE_SEIZE's EPERM apart.
func seizeRefused(pid, tid int) error {
	status, err := readStatus(pid, tid)
	if err != nil {
		return gone(err)
	}
	switch tracer := status["TracerPid"]; {
	case len(status["State"]) > 0 && (status["State"][0] == 'Z' || status["State"][0] == 'X'):
		return fmt.Errorf("%w: it is a zombie", ErrGone)
	case tracer != "0" && tracer != "":
		return fmt.Errorf("%w: its process id is %s", ErrTraced, tracer)
	}
	return fmt.Errorf("%w: attach to thread %d: %w: run with CAP_SYS_PTRACE", ErrUnsupported, tid, unix.EPERM)
}

func (t *tracee) forget() { signal.Stop(t.chld) }

// stop brings the thread to a stop that the kernel goes through on its way back
// to the program, its registers as the program or the kernel's restarting of
// system calls has them.
func (t *tracee) stop(ctx context.Context) error {
	if err := unix.PtraceInterrupt(t.tid); err != nil {
		return gone(err)
	}
	for {
		status, err := t.waitUntil(ctx)
		if err != nil {
			return err
		}
		if isEventStop(status) {
			return nil
		}
		// A signal came first. It is delivered, and the stop follows.
		if err := t.pass(unix.PTRACE_CONT, status); err != nil {
			return err
		}
	}
}

// waitUntil waits for a change of the thread, until the context ends.
func (t *tracee) waitUntil(ctx context.Context) (unix.WaitStatus, error) {
	const tries = 64 // a thread on another processor needs a few microseconds
	for try := 0; ; try++ {
		status, ok, err := t.wait(unix.WNOHANG)
		if err != nil || ok {
			return status, err
		}
		if try < tries {
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		select {
		case <-t.chld:
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: thread %d: %w", ErrUnreachable, t.tid, ctx.Err())
		}
	}
}

// wait takes the next change of the thread; with WNOHANG ok says whether there
// was one. A thread that ended is an error.
func (t *tracee) wait(flags int) (status unix.WaitStatus, ok bool, err error) {
	for {
		got, err := unix.Wait4(t.tid, &status, flags|unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.ended = errors.Is(err, unix.ECHILD)
			return 0, false, gone(err)
		}
		if got == 0 {
			return 0, false, nil
		}
		if !status.Stopped() {
			t.ended = true
			return 0, false, fmt.Errorf("%w: thread %d ended", ErrGone, t.tid)
		}
		return status, true, nil
	}
}

// isEventStop: the thread stopped on our demand, or with its whole process.
func isEventStop(s unix.WaitStatus) bool { return int(s)>>16 == ptraceEventStop }

// isSyscallStop: the thread enters or leaves a system call.
func isSyscallStop(s unix.WaitStatus) bool { return s.StopSignal() == unix.SIGTRAP|0x80 }

// resume lets the stopped thread run until a stop of the wanted kind, and
// delivers what signals come before.
func (t *tracee) resume(request int, wanted func(unix.WaitStatus) bool) error {
	var last unix.WaitStatus
	for {
		if err := t.pass(request, last); err != nil {
			return err
		}
		status, _, err := t.wait(0)
		if err != nil {
			return err
		}
		if wanted(status) {
			return nil
		}
		last = status
	}
}

// pass lets the thread run on from a stop, with the signal that it stopped for.
func (t *tracee) pass(request int, stop unix.WaitStatus) error {
	var sig uintptr
	if stop != 0 && int(stop)>>16 == 0 && !isSyscallStop(stop) {
		sig = uintptr(stop.StopSignal())
	}
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(t.tid), 0, sig, 0, 0); errno != 0 {
		return gone(errno)
	}
	return nil
}

// detach lets the stopped thread go. If its process is stopped by a signal it
// stays so (__ptrace_unlink in the kernel's kernel/ptrace.c).
func (t *tracee) detach() error { return unix.PtraceDetach(t.tid) }

// peek reads the eight bytes at addr of the stopped thread's memory.
func (t *tracee) peek(addr uint64) (word [8]byte, err error) {
	n, err := unix.PtracePeekData(t.tid, uintptr(addr), word[:])
	if err == nil && n != len(word) {
		err = unix.EIO
	}
	return word, err
}

// poke writes eight bytes at addr.
func (t *tracee) poke(addr, value uint64) error {
	word := *(*[8]byte)(unsafe.Pointer(&value))
	_, err := unix.PtracePokeData(t.tid, uintptr(addr), word[:])
	return err
}
