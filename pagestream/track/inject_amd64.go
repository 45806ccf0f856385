package track

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	userCS       = 0x33 // code segment of 64-bit code (__USER_CS)
	uffdUserOnly = 1    // UFFD_USER_MODE_ONLY: needs no privilege of the process

	ptraceGetRseq     = 0x420f // PTRACE_GET_RSEQ_CONFIGURATION
	ptraceGetDispatch = 0x4211 // PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG

	kcmpFile = 0 // KCMP_FILE

	// rseqCS is the offset of rseq_cs in struct rseq.
	rseqCS = 8
)

var syscallCode = []byte{0x0f, 0x05}

func indexSyscall(code []byte) int { return bytes.Index(code, syscallCode) }

// restartable are system calls that wait and that the kernel itself restarts
// after a stop that no signal handler followed.
var restartable = map[int]bool{
	unix.SYS_FUTEX: true, unix.SYS_NANOSLEEP: true, unix.SYS_CLOCK_NANOSLEEP: true,
	unix.SYS_POLL: true, unix.SYS_PPOLL: true, unix.SYS_SELECT: true, unix.SYS_PSELECT6: true,
	unix.SYS_PAUSE: true, unix.SYS_WAIT4: true, unix.SYS_WAITID: true, unix.SYS_RT_SIGSUSPEND: true,
}

// injection is one thread of the target while it is held: what must be put back
// before it is let go.
type injection struct {
	*tracee
	pid     int
	code    uint64 // address of a system call instruction
	regs    unix.PtraceRegs
	sigmask uint64
	// The kernel clears the pointer to a restartable sequence when it finds the
	// thread outside of it (clear_rseq_cs in kernel/rseq.c), and so it finds it
	// during an injection. Without the pointer the sequence would not be
	// restarted afterwards although it was interrupted.
	rseqAt, rseq uint64
}

// injectThread does the injection in one thread of the process. clean says that
// the calling thread traces nothing any more.
func injectThread(ctx context.Context, pid, tid, pidfd int, code uint64) (_ Injection, clean bool, err error) {
	t, err := seize(pid, tid)
	if err != nil {
		return Injection{}, true, err
	}
	defer t.forget()
	start := time.Now()
	if err := t.stop(ctx); err != nil {
		return Injection{}, t.ended, err
	}
	in := &injection{tracee: t, pid: pid, code: code}
	if err := in.save(); err != nil {
		return Injection{}, t.detach() == nil, err
	}
	fd, err := in.create(pidfd)
	if restoreErr := in.restore(); restoreErr != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return Injection{}, t.ended, errors.Join(err, restoreErr)
	}
	if err != nil {
		return Injection{}, true, err
	}
	return Injection{FD: fd, Stopped: time.Since(start)}, true, nil
}

// save remembers the state of the stopped thread and refuses threads in which no
// system call can be made safely. It changes nothing but the ptrace options and,
// last, the signal mask.
func (in *injection) save() error {
	if err := unix.PtraceGetRegs(in.tid, &in.regs); err != nil {
		return gone(err)
	}
	if in.regs.Cs != userCS {
		return fmt.Errorf("%w: it runs 32-bit code", ErrUnsupported)
	}
	if word, err := in.peek(in.code); err != nil || !bytes.Equal(word[:2], syscallCode) {
		return fmt.Errorf("%w: its code changed, it may have called exec", ErrUnreachable)
	}
	var dispatch struct{ mode, selector, offset, length uint64 }
	if _, err := ptrace(ptraceGetDispatch, in.tid, unsafe.Sizeof(dispatch), unsafe.Pointer(&dispatch)); err == nil && dispatch.mode != 0 {
		return fmt.Errorf("%w: it handles system calls itself (PR_SET_SYSCALL_USER_DISPATCH)", ErrUnsupported)
	}
	if err := in.suspendSeccomp(); err != nil {
		return err
	}
	if err := in.saveRseq(); err != nil {
		return err
	}
	if _, err := ptrace(unix.PTRACE_GETSIGMASK, in.tid, 8, unsafe.Pointer(&in.sigmask)); err != nil {
		return gone(err)
	}
	// Signals wait until the thread is its own again. Only SIGKILL and SIGSTOP
	// pass.
	all := ^uint64(0)
	if _, err := ptrace(unix.PTRACE_SETSIGMASK, in.tid, 8, unsafe.Pointer(&all)); err != nil {
		return gone(err)
	}
	return nil
}

// suspendSeccomp sets a filter aside as long as we trace. It is read off the
// stopped thread, which cannot add one any more.
func (in *injection) suspendSeccomp() error {
	status, err := readStatus(in.pid, in.tid)
	if err != nil {
		return gone(err)
	}
	if mode := status["Seccomp"]; mode == "0" || mode == "" {
		return nil
	}
	if err := unix.PtraceSetOptions(in.tid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_SUSPEND_SECCOMP); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return gone(err)
		}
		return fmt.Errorf("%w (%w)", ErrSeccomp, err)
	}
	return nil
}

func (in *injection) saveRseq() error {
	var conf struct {
		pointer         uint64
		size, signature uint32
		flags, pad      uint32
	}
	// Fails where the kernel has no rseq.
	if _, err := ptrace(ptraceGetRseq, in.tid, unsafe.Sizeof(conf), unsafe.Pointer(&conf)); err != nil || conf.pointer == 0 {
		return nil
	}
	word, err := in.peek(conf.pointer + rseqCS)
	if err != nil {
		return nil // not mapped: the kernel would kill the thread, not we
	}
	in.rseqAt, in.rseq = conf.pointer+rseqCS, *(*uint64)(unsafe.Pointer(&word))
	return nil
}

// create makes the userfaultfd in the thread, takes it and closes it there. The
// descriptor is -1 if there is none.
func (in *injection) create(pidfd int) (int, error) {
	remote, err := in.call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserOnly, 0, 0)
	if err != nil {
		return -1, err
	}
	if remote < 0 {
		return -1, fmt.Errorf("userfaultfd inside the process: %w", unix.Errno(-remote))
	}
	local, takeErr := unix.PidfdGetfd(pidfd, int(remote), 0)
	if takeErr != nil {
		local, takeErr = -1, fmt.Errorf("take the userfaultfd: %w", gone(takeErr))
	}
	// Another thread may have closed it, and something else may have its number.
	if takeErr == nil && !in.sameFile(local, int(remote)) {
		return local, nil
	}
	closed, err := in.call(unix.SYS_CLOSE, uint64(remote), 0, 0)
	if err == nil && closed < 0 && unix.Errno(-closed) != unix.EBADF {
		err = fmt.Errorf("close the userfaultfd inside the process: %w", unix.Errno(-closed))
	}
	if err == nil {
		err = takeErr
	}
	if err != nil && local >= 0 {
		unix.Close(local)
		local = -1
	}
	return local, err
}

// sameFile says whether our descriptor and one of the target are one file. When
// that cannot be told (a kernel without kcmp) they are.
func (in *injection) sameFile(local, remote int) bool {
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(in.tid), kcmpFile, uintptr(local), uintptr(remote), 0)
	if errno == unix.EBADF {
		return false
	}
	return errno != 0 || order == 0
}

// call makes the stopped thread do one system call and returns its result. The
// thread is left in a PTRACE_EVENT_STOP: only from there does the kernel go
// through its restarting of an interrupted call when the thread is let go.
//
// Entering is seen by PTRACE_SYSCALL and not by a single step, because the
// SIGTRAP of a step resets the handler of a process that ignores SIGTRAP
// (force_sig_info_to_task in the kernel's kernel/signal.c).
func (in *injection) call(nr, a, b, c uint64) (int64, error) {
	regs := in.regs
	regs.Rip = in.code
	regs.Rax = nr
	regs.Orig_rax = ^uint64(0) // nothing to restart on the way there
	regs.Rdi, regs.Rsi, regs.Rdx = a, b, c
	if err := unix.PtraceSetRegs(in.tid, &regs); err != nil {
		return 0, gone(err)
	}
	if err := in.resume(unix.PTRACE_SYSCALL, isSyscallStop); err != nil {
		return 0, err
	}
	if err := unix.PtraceInterrupt(in.tid); err != nil {
		return 0, gone(err)
	}
	if err := in.resume(unix.PTRACE_CONT, isEventStop); err != nil {
		return 0, err
	}
	if err := unix.PtraceGetRegs(in.tid, &regs); err != nil {
		return 0, gone(err)
	}
	return int64(regs.Rax), nil
}

// restore puts everything back and lets the thread go.
func (in *injection) restore() error {
	if in.ended {
		return fmt.Errorf("%w: it ended during the injection", ErrGone)
	}
	in.continueInterrupted()
	if in.rseq != 0 {
		if err := in.poke(in.rseqAt, in.rseq); err != nil {
			return gone(err)
		}
	}
	if err := unix.PtraceSetRegs(in.tid, &in.regs); err != nil {
		return gone(err)
	}
	if _, err := ptrace(unix.PTRACE_SETSIGMASK, in.tid, 8, unsafe.Pointer(&in.sigmask)); err != nil {
		return gone(err)
	}
	return gone(in.detach())
}

// continueInterrupted lets a system call go on that returned EINTR only because
// of our stop. The kernel restarts most calls by itself (-ERESTARTSYS and its
// kin are in the registers, and it acts on them when the thread is let go); a
// few return EINTR even without a signal, see signal(7). They begin again,
// unless a signal waits to be handled, which must see its EINTR.
func (in *injection) continueInterrupted() {
	if int64(in.regs.Rax) != -int64(unix.EINTR) || !in.beginsAgain() || in.signalWaits() {
		return
	}
	in.regs.Rax = in.regs.Orig_rax
	in.regs.Rip -= uint64(len(syscallCode))
}

// maxStretch is the longest timeout that may start anew. Beyond it the program
// gets the EINTR, after which it can work out the rest of its time itself.
const maxStretch = 100 * time.Millisecond

// beginsAgain says whether the interrupted call has no timeout, or one so short
// that it does not matter if it begins anew.
func (in *injection) beginsAgain() bool {
	switch int64(in.regs.Orig_rax) {
	case unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT:
		ms := int32(in.regs.R10)
		return ms < 0 || time.Duration(ms)*time.Millisecond <= maxStretch
	case unix.SYS_EPOLL_PWAIT2, unix.SYS_SEMTIMEDOP:
		return in.regs.R10 == 0
	case unix.SYS_RT_SIGTIMEDWAIT:
		return in.regs.Rdx == 0
	case unix.SYS_IO_GETEVENTS:
		return in.regs.R8 == 0
	case unix.SYS_SEMOP:
		return true
	}
	return false
}

// signalWaits says whether a signal is pending that the thread does not block.
// When that cannot be told, it is.
func (in *injection) signalWaits() bool {
	status, err := readStatus(in.pid, in.tid)
	if err != nil {
		return true
	}
	own, err1 := strconv.ParseUint(status["SigPnd"], 16, 64)
	shared, err2 := strconv.ParseUint(status["ShdPnd"], 16, 64)
	return err1 != nil || err2 != nil || (own|shared)&^in.sigmask != 0
}
