package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// A restored container has a time namespace of its own, which CRIU has made: its monotonic clock goes on where it was. CRIU forks for each such
// namespace when it dumps. One that works inside reads the clocks itself, and notes them as it does of a container that was never restored
// (criu/cr-dump.c, dump_time_ns with no namespace); a restore makes a namespace from either (criu/cr-restore.c, prepare_timens). So only
// the end that dumps has to be inside.
//
// Only a process of a single thread can enter a time namespace (kernel: kernel/time/namespace.c, timens_install), which no program of ours is, nor
// is runc. And runc must stay outside: it knows a container's first process by when it was started, and that is told by the clocks of who asks. So
// a program that nodes have enters, and becomes CRIU.

// enterTime is that program.
const enterTime = "nsenter"

// EnvTime names, to StandIn, the time namespace in which CRIU is to work.
const EnvTime = "GODWIT_CRIU_TIME"

// TimeNamespace is that of a process, if CRIU has to enter it to work there, and can; else it is empty.
func TimeNamespace(ctx context.Context, pid int, run func(context.Context, *exec.Cmd) error) (string, error) {
	path := fmt.Sprintf("/proc/%d/ns/time", pid)
	var its, own unix.Stat_t
	err := unix.Stat(path, &its)
	if errors.Is(err, unix.ENOENT) {
		return "", nil // the kernel has none
	}
	if err = errors.Join(err, unix.Stat("/proc/self/ns/time", &own)); err != nil {
		return "", fmt.Errorf("time namespace of process %d: %w", pid, err)
	}
	if its.Dev == own.Dev && its.Ino == own.Ino {
		return "", nil
	}
	try := exec.Command(enterTime, inTime(path, enterTime, "--version")...)
	if err := run(ctx, try); err != nil {
		return "", fmt.Errorf("enter the time namespace of process %d: %w", pid, err)
	}
	return path, nil
}

// inTime are enterTime's arguments for a command in a time namespace.
func inTime(path string, command ...string) []string {
	return append([]string{"--time=" + path, "--no-fork", "--"}, command...)
}

// becomeCRIU executes CRIU with its arguments, in the time namespace that it is to work in.
func becomeCRIU(path string, args []string) error {
	if ns := os.Getenv(EnvTime); ns != "" {
		enter, err := exec.LookPath(enterTime)
		if err != nil {
			return err
		}
		path, args = enter, append([]string{enterTime}, inTime(ns, append([]string{path}, args[1:]...)...)...)
	}
	return unix.Exec(path, args, os.Environ())
}
