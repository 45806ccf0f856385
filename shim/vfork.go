package shim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A thread that has spawned a process by vfork, as shells, posix_spawn and Go do,
// waits in the kernel until its child has called exec. It counts as frozen there
// (kernel/fork.c, wait_for_vfork_done), but no ptrace stops it, so that CRIU waits
// for it until its time is up: with the child frozen it would wait for ever.

// errSpawning: at each look some thread was waiting like that.
var errSpawning = errors.New("the processes of the container spawn others all the time, " +
	"and were never seen without one that is between vfork and exec; try again when they do less")

// spawnPause is how long a container runs on when it was frozen between vfork and
// exec, at first; each time twice as long, up to spawnPauseMax.
const (
	spawnPause    = time.Millisecond
	spawnPauseMax = 64 * time.Millisecond
	spawnTries    = 20
)

// freezeAtRest freezes the container at a moment at which no thread of it waits for
// a child to exec, and lists its processes. It returns errSpawning if there is no such moment.
func (f *freezer) freezeAtRest(ctx context.Context) ([]int, error) {
	pause := spawnPause
	for range spawnTries {
		if err := f.freeze(ctx); err != nil {
			return nil, err
		}
		pids, spawning, err := f.spawning()
		if err != nil || !spawning {
			return pids, err
		}
		if err := f.thaw(); err != nil {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		pause = min(2*pause, spawnPauseMax)
	}
	return nil, errSpawning
}

// spawning says whether any thread of the frozen container may be waiting for a
// child to exec, and which processes it has.
func (f *freezer) spawning() (pids []int, is bool, err error) {
	if pids, err = f.processes(); err != nil {
		return nil, false, err
	}
	for _, pid := range pids {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if errors.Is(err, os.ErrNotExist) {
			continue // a zombie that was reaped
		}
		if err != nil {
			return nil, false, fmt.Errorf("threads of process %d: %w", pid, err)
		}
		for _, t := range threads {
			if waitsForExec(restingCall(pid, t.Name()), func(address uint64) (uint64, error) { return cloneFlags(pid, address) }) {
				return pids, true, nil
			}
		}
	}
	return pids, false, nil
}

// restingCall is what /proc/PID/task/TID/syscall says of a frozen thread; nothing of one that is gone. One that waits
// for an exec counts as frozen also while it runs, as a thaw just before has woken it: it is back in its wait at once.
func restingCall(pid int, tid string) string {
	var call []byte
	for range 100 {
		var err error
		call, err = os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "task", tid, "syscall"))
		if err != nil {
			return ""
		}
		if strings.TrimSpace(string(call)) != callRunning {
			break
		}
		time.Sleep(freezeLook)
	}
	return string(call)
}

// callRunning is what the kernel says of a thread that is not asleep (fs/proc/base.c, proc_pid_syscall).
const callRunning = "running"

// waitsForExec says, by a line of /proc/PID/task/TID/syscall (number of the call,
// its arguments), whether the thread is in a call that returns when a child has
// called exec. It may just have returned from it: the file does not tell. flags
// reads clone3's.
func waitsForExec(call string, flags func(address uint64) (uint64, error)) bool {
	f := strings.Fields(call)
	if len(f) == 1 && f[0] == callRunning {
		return true // in a frozen container only such a thread does
	}
	if len(f) < 2 {
		return false
	}
	number, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return false
	}
	argument, err := strconv.ParseUint(strings.TrimPrefix(f[1], "0x"), 16, 64)
	if err != nil {
		return false
	}
	switch number {
	case unix.SYS_VFORK:
		return true
	case unix.SYS_CLONE:
		return argument&unix.CLONE_VFORK != 0
	case unix.SYS_CLONE3:
		set, err := flags(argument)
		return err == nil && set&unix.CLONE_VFORK != 0
	}
	return false
}

// cloneFlags reads the first member of a struct clone_args.
func cloneFlags(pid int, address uint64) (uint64, error) {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, err
	}
	defer mem.Close()
	var b [8]byte
	if _, err := mem.ReadAt(b[:], int64(address)); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}
