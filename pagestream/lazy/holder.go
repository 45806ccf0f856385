package lazy

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holder is a process that shares the server's table of descriptors and does
// nothing else. A fork event's descriptor is installed in that table by the very
// read(2) that lets the fork go on; with the holder it is there also after the server
// has been killed in that moment, and the next server fetches it. It lives as long as
// the server, or the keeper's end of the server's connection, whichever is longer.
type holder struct{ pid int }

// startHolder has to be called on the locked thread that lives as long as the server.
func startHolder(sock int) (holder, error) {
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	// The child is no Go program any more: no signal may reach the runtime in it.
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return holder{}, fmt.Errorf("start holder of descriptors: %w", err)
	}
	pid, errno := cloneHolder(uintptr(sock), uintptr(os.Getpid()))
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
		return holder{}, fmt.Errorf("start holder of descriptors: %w", err)
	}
	if errno != 0 {
		return holder{}, fmt.Errorf("start holder of descriptors: %w", errno)
	}
	return holder{int(pid)}, nil
}

// pidfd names the process for pidfd_getfd(2).
func (h holder) pidfd() (int, error) {
	fd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd of the holder of descriptors: %w", err)
	}
	return fd, nil
}

// stop ends the process: nothing is left to hold.
func (h holder) stop() {
	if h.pid <= 0 {
		return
	}
	_ = unix.Kill(h.pid, unix.SIGKILL)
	_, _ = unix.Wait4(h.pid, nil, 0, nil)
}

// cloneHolder is fork(2) with a shared table of descriptors. The child stays in it.
// What runs in the child must neither grow the stack nor meet the runtime, as
// syscall.forkAndExecInChild must not.
//
//go:norace
//go:nosplit
func cloneHolder(sock, server uintptr) (uintptr, unix.Errno) {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	// No event is asked for: this returns when the keeper has closed its end.
	poll := struct {
		fd      int32
		events  int16
		revents int16
	}{fd: int32(sock)}
	unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, 0, 0, 0, 0)
	unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	parent, _, _ := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
	for parent == server {
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// hold starts the holder and shows it to the keeper.
func (s *server) hold() error {
	var err error
	if s.holder, err = startHolder(s.sock); err != nil {
		return err
	}
	fd, err := s.holder.pidfd()
	if err != nil {
		return err
	}
	s.tell(message{kind: holderMsg}, fd)
	return unix.Close(fd)
}
