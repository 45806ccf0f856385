package track

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/pagemap"
)

var (
	// ErrGone says that the process has no memory any more: it ended, or is
	// about to.
	ErrGone = pagemap.ErrGone
	// ErrTraced says that somebody else traces the process.
	ErrTraced = errors.New("process is traced by another: detach the debugger")
	// ErrUnreachable says that no thread of the process came to a stop in time:
	// all wait uninterruptibly, as after vfork or on a dead network file system.
	ErrUnreachable = errors.New("no thread of the process could be stopped: try again later")
	// ErrUnsupported says that the process is of a kind in which no
	// userfaultfd can be created.
	ErrUnsupported = errors.New("process cannot be tracked")
	// ErrSeccomp says that a seccomp filter cannot be set aside.
	ErrSeccomp = errors.New("seccomp filter of the process cannot be suspended: " +
		"run as root of the initial user namespace, without seccomp, on a kernel with CONFIG_CHECKPOINT_RESTORE")
)

// Injection is what came of creating a userfaultfd inside a process.
type Injection struct {
	FD      int           // the userfaultfd, ours to close
	Stopped time.Duration // at most how long one thread of the process stood still
}

// defaultPatience is how long Inject tries to stop a thread when the context
// says nothing.
const defaultPatience = 250 * time.Millisecond

// Inject creates a userfaultfd inside the process, takes it and closes it there.
// One thread stops for that, about 0.2 ms; the others run on. Afterwards nothing
// of it is left in the process: no descriptor, no changed register or signal
// mask, no lost signal; system calls that wait go on, as after SIGSTOP and
// SIGCONT (see interrupted).
//
// Until a thread has stopped the context ends the attempt (250 ms if it has no
// deadline); from there on the injection goes to its end. The process must not
// be frozen by a cgroup meanwhile: Inject would wait until it is thawed.
//
// A thread that forks in that moment gives the child a copy of the descriptor.
// An exec closes it; a child that goes on without an exec keeps it, and CRIU
// then refuses the child.
//
// The calling process must not reap children with wait4(-1): it would take the
// stops of the thread away. A containerd shim does that, so it uses Helper.
//
// Errors wrap ErrGone, ErrTraced, ErrUnreachable, ErrUnsupported or ErrSeccomp
// where these apply; the process then runs on as if nothing had been tried.
func Inject(ctx context.Context, pid int) (Injection, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultPatience)
		defer cancel()
	}
	in, err := inject(ctx, pid)
	if err != nil && !errors.Is(err, ErrGone) && ending(pid) {
		err = fmt.Errorf("%w (%w)", ErrGone, err)
	}
	if err != nil {
		return Injection{}, fmt.Errorf("userfaultfd in process %d: %w", pid, err)
	}
	return in, nil
}

// ending says whether the process is gone or on its way: what failed then failed
// for that reason.
func ending(pid int) bool {
	status, err := readStatus(pid, pid)
	if err != nil {
		return true
	}
	_, hasMemory := status["VmSize"]
	own, _ := strconv.ParseUint(status["SigPnd"], 16, 64)
	shared, _ := strconv.ParseUint(status["ShdPnd"], 16, 64)
	const killed = 1 << (unix.SIGKILL - 1)
	return !hasMemory || (own|shared)&killed != 0
}

func inject(ctx context.Context, pid int) (Injection, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return Injection{}, gone(err)
	}
	defer unix.Close(pidfd)
	at, err := findSyscall(pid)
	if err != nil {
		return Injection{}, err
	}
	threads, err := stoppable(pid)
	if err != nil {
		return Injection{}, err
	}
	var in Injection
	for i, tid := range threads {
		// A thread that does not stop must leave time for the next one.
		share := ctx
		if deadline, ok := ctx.Deadline(); ok && i+1 < len(threads) {
			var cancel context.CancelFunc
			share, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
			defer cancel()
		}
		onThread(func() (clean bool) {
			in, clean, err = injectThread(share, pid, tid, pidfd, at)
			return clean
		})
		if !errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
			break
		}
	}
	return in, err
}

// gone turns the errors that a vanishing process causes into ErrGone.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ECHILD) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w (%w)", ErrGone, err)
	}
	return err
}

// onThread runs f on an operating system thread that does nothing else: ptrace
// takes orders only from the thread that attached. If f says that it did not end
// cleanly the thread ends with it, and the kernel lets go of whatever was still
// attached (exit_ptrace); nothing else detaches a thread that does not stop.
func onThread(f func() (clean bool)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Go never ends the first thread of a process. This goroutine keeps
			// it busy, so the next one has another.
			onThread(f)
			runtime.UnlockOSThread()
			return
		}
		if f() {
			runtime.UnlockOSThread()
		}
	}()
	<-done
}

// maxAttempts is how many threads of a process are tried, and maxExamined how
// many are looked at to find them.
const (
	maxAttempts = 3
	maxExamined = 32
)

// stoppable returns threads of the process, the one first that a stop disturbs
// least.
func stoppable(pid int) ([]int, error) {
	status, err := readStatus(pid, pid)
	if err != nil {
		return nil, gone(err)
	}
	if tracer := status["TracerPid"]; tracer != "0" && tracer != "" {
		return nil, fmt.Errorf("%w: its process id is %s", ErrTraced, tracer)
	}
	dir, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, gone(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxExamined)
	if err != nil {
		return nil, gone(err)
	}
	type thread struct{ tid, trouble int }
	var threads []thread
	for _, name := range names {
		tid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if trouble, ok := troubleOf(pid, tid, len(names) > 1); ok {
			threads = append(threads, thread{tid, trouble})
		}
	}
	if len(threads) == 0 {
		return nil, fmt.Errorf("%w: it has no live thread", ErrGone)
	}
	slices.SortStableFunc(threads, func(a, b thread) int { return cmp.Compare(a.trouble, b.trouble) })
	var tids []int
	for _, t := range threads[:min(len(threads), maxAttempts)] {
		tids = append(tids, t.tid)
	}
	return tids, nil
}

// troubleOf ranks a thread by what stopping it costs: nothing (it runs, or is in
// a system call that restarts by itself), perhaps an EINTR, or a wait until it
// can be stopped at all. ok is false for a dead one. alternatives says whether
// there are others, without which there is no need to look closely.
func troubleOf(pid, tid int, alternatives bool) (trouble int, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid))
	if err != nil {
		return 0, false
	}
	// The name, between parentheses, may hold anything.
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 || i+2 >= len(stat) {
		return 0, false
	}
	switch stat[i+2] {
	case 'Z', 'X', 'x':
		return 0, false
	case 'D':
		return 3, true
	case 'T', 't':
		return 2, true
	}
	if !alternatives {
		return 0, true
	}
	call, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid))
	if err != nil {
		return 1, true
	}
	nr, _, _ := strings.Cut(strings.TrimSpace(string(call)), " ")
	if n, err := strconv.Atoi(nr); err == nil && n >= 0 && !restartable[n] {
		return 1, true
	}
	return 0, true
}

// readStatus returns the fields of a thread's status.
func readStatus(pid, tid int) (map[string]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields, nil
}

// findSyscall returns the address of an instruction in the process that makes a
// system call. The vDSO has one; where there is no vDSO the program's code does.
func findSyscall(pid int) (uint64, error) {
	areas, _, err := pagemap.ReadMaps(pid, nil, nil)
	if err != nil {
		return 0, gone(err)
	}
	if len(areas) == 0 {
		return 0, fmt.Errorf("%w: it has no memory", ErrGone)
	}
	slices.SortStableFunc(areas, func(a, b pagemap.VMA) int {
		return cmp.Compare(searchOrder(a), searchOrder(b))
	})
	buf := make([]byte, 64<<10)
	readable := false
	for _, v := range areas {
		if v.Perms&(pagemap.Read|pagemap.Exec) != pagemap.Read|pagemap.Exec || v.Path == "[vsyscall]" {
			continue
		}
		for at := v.Start; at < v.End; at += uint64(len(buf)) {
			n := readCode(pid, at, buf[:min(uint64(len(buf)), v.End-at)])
			if i := indexSyscall(buf[:n]); i >= 0 {
				return at + uint64(i), nil
			}
			readable = readable || n > 0
		}
	}
	if !readable {
		return 0, fmt.Errorf("%w: its code cannot be read, it calls exec or ends", ErrUnreachable)
	}
	return 0, fmt.Errorf("%w: no system call instruction in its code", ErrUnsupported)
}

func searchOrder(v pagemap.VMA) int {
	if v.Path == "[vdso]" {
		return 0
	}
	return 1
}

// readCode fills buf with what is at addr, as far as it can be read.
func readCode(pid int, addr uint64, buf []byte) int {
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}
	n, err := unix.ProcessVMReadv(pid, local, remote, 0)
	if err != nil {
		return 0
	}
	return n
}
