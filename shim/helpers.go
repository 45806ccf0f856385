package shim

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/shim/criu"
)

// Names of the shim binary's helpers: processes of their own, for what a shim
// cannot do itself. They are its first argument.
const (
	// helperShow executes a command that sees some files of /proc replaced.
	helperShow = "godwit-show"
	// helperInject makes userfaultfds inside the pod's processes: the shim
	// collects every child that stops, so it can trace none.
	helperInject = "godwit-inject"
	// helperFill serves the faults of a restored container, so that memory goes
	// on arriving whatever becomes of the shim.
	helperFill = "godwit-fill"
)

// criuNice is the priority of runc and CRIU. What CRIU restores has its own again: it is
// among what the images say of each thread.
const criuNice = -10

// RunHelper runs the helper that the arguments of the process name, or what criu.StandIn is,
// and does not return from it; it returns at once if they name none.
func RunHelper(args []string) {
	if stood, err := criu.StandIn(args); stood {
		exit(args[0], err)
	}
	if len(args) < 2 {
		return
	}
	var err error
	switch args[1] {
	case helperShow:
		err = runShow(args[2:])
	case helperInject:
		err = runInject()
	case helperFill:
		err = runFill()
	default:
		return
	}
	exit(args[1], err)
}

// exit ends a helper.
func exit(name string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runShow is the helper that executes runc, ahead of others, with views of its processes.
func runShow(args []string) error {
	runtime.LockOSThread()
	args, err := enterNamespaces(args)
	if err != nil {
		return err
	}
	args, ownYard := takeYard(args)
	mounts, args, err := inheritedTmpfs(args)
	if err != nil {
		return err
	}
	split := slices.Index(args, "--")
	if split < 0 || split+1 == len(args) {
		return errors.New("want pairs of paths, then -- and a command")
	}
	if err := criu.ShowViews(args[:split]); err != nil {
		return err
	}
	if ownYard {
		if err := criu.HideYards(); err != nil {
			return err
		}
	}
	for _, m := range mounts {
		if err := m.attach(); err != nil {
			return err
		}
	}
	// A pod stands still for what is executed. One that may not come first is slower.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, criuNice)
	command := args[split+1:]
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, command, os.Environ())
}
