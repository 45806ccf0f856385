package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/timerslack"
)

// How late a thread's timers may be (prctl(2), PR_SET_TIMERSLACK) CRIU neither dumps nor restores: what it makes has its own, which is the usual one
// (criu.StandIn). So what threads have set for themselves goes beside its images.

// oversleepFile is where, in the directory of the images: in nanoseconds, by the threads' numbers in the container. There is none if all have the usual.
const oversleepFile = "timerslack.json"

// saveOversleep writes it down of frozen processes.
func saveOversleep(images string, pids []int) error {
	unusual := make(map[int]uint64)
	err := eachThread(pids, func(tid int) error {
		by, err := timerslack.Of(tid)
		// A thread that runs before all others at any rate has none (kernel: fs/proc/base.c, timerslack_ns_write), and no other.
		if err != nil || by == uint64(timerslack.Usual) || by == 0 {
			return err
		}
		inside, err := vpid(tid)
		if err == nil {
			unusual[inside] = by
		}
		return err
	})
	if err != nil || len(unusual) == 0 {
		return err
	}
	text, err := json.Marshal(unusual)
	if err != nil {
		return fmt.Errorf("timer slack of the container: %w", err)
	}
	if err := os.WriteFile(filepath.Join(images, oversleepFile), text, 0o600); err != nil {
		return fmt.Errorf("timer slack of the container: %w", err)
	}
	return nil
}

// restoreOversleep gives the threads of restored processes, which have yet to run, what those had that they were dumped from.
func (d *destination) restoreOversleep(a *arrival) error {
	text, err := os.ReadFile(filepath.Join(a.request.GetImagesDir(), oversleepFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var unusual map[int]uint64
	if err == nil {
		err = json.Unmarshal(text, &unusual)
	}
	if err != nil {
		return fmt.Errorf("timer slack of the container: %w", err)
	}
	d.mu.Lock()
	cgroup := a.cgroup
	d.mu.Unlock()
	if cgroup == nil {
		return errors.New("timer slack of the container: its cgroup is not known")
	}
	pids, err := cgroup.processes()
	if err != nil {
		return fmt.Errorf("timer slack of the container: %w", err)
	}
	return setOversleep(pids, unusual)
}

// setOversleep sets it for the threads of processes, by their numbers in the container.
func setOversleep(pids []int, unusual map[int]uint64) error {
	return eachThread(pids, func(tid int) error {
		inside, err := vpid(tid)
		if err != nil {
			return err
		}
		if by, is := unusual[inside]; is {
			return timerslack.Set(tid, by)
		}
		return nil
	})
}

// eachThread calls do for all threads of processes. That one is gone is no error.
func eachThread(pids []int, do func(tid int) error) error {
	for _, pid := range pids {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("threads of process %d: %w", pid, err)
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return fmt.Errorf("threads of process %d: %w", pid, err)
			}
			if err := do(tid); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}
