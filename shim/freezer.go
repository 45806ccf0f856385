package shim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// freezer stops and thaws all processes of one container through its cgroup:
// cgroup v1's freezer, or cgroup.freeze of v2.
type freezer struct {
	// dir is the container's cgroup directory in the hierarchy that freezes.
	dir     string
	unified bool
}

// freezeLimit bounds how long the kernel may take to stop a cgroup: a task in
// an uninterruptible wait (a dead NFS server, say) delays it without end.
const freezeLimit = 5 * time.Second

// openFreezer finds the cgroup of a container by its init process.
func openFreezer(pid int) (*freezer, error) {
	unified := cgroups.Mode() == cgroups.Unified
	path, err := cgroupPath(pid, unified)
	if err != nil {
		return nil, err
	}
	f := &freezer{unified: unified, dir: freezerDir(path, unified)}
	if _, err := os.Stat(f.control()); err != nil {
		return nil, fmt.Errorf("freezer of process %d: %w; mount the cgroup freezer", pid, err)
	}
	return f, nil
}

// freezerDir is the directory of a cgroup in the hierarchy that freezes.
func freezerDir(path string, unified bool) string {
	if unified {
		return filepath.Join("/sys/fs/cgroup", path)
	}
	return filepath.Join("/sys/fs/cgroup/freezer", path)
}

// errFreezesShim: nobody would be left to thaw it.
var errFreezesShim = errors.New("the container is in the cgroup of its own shim, which would be frozen with it: " +
	"its OCI runtime does not put containers into cgroups of their own; use runc, and start the pod anew")

// sparesSelf returns an error if a freeze would stop this process as well.
func (f *freezer) sparesSelf() error {
	path, err := cgroupPath(os.Getpid(), f.unified)
	if err != nil {
		return err
	}
	if own := freezerDir(path, f.unified); own == f.dir || strings.HasPrefix(own, f.dir+"/") {
		return fmt.Errorf("freezer %s: %w", f.dir, errFreezesShim)
	}
	return nil
}

// cgroupPath reads a process' path in the hierarchy that freezes.
func cgroupPath(pid int, unified bool) (string, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// hierarchy-ID:controller-list:path
		f := strings.SplitN(lines.Text(), ":", 3)
		if len(f) != 3 {
			continue
		}
		if unified && f[0] == "0" || !unified && hasController(f[1], "freezer") {
			return f[2], nil
		}
	}
	return "", fmt.Errorf("process %d is in no cgroup that can freeze it; enable the freezer controller", pid)
}

func hasController(list, name string) bool {
	for _, c := range strings.Split(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

func (f *freezer) control() string {
	if f.unified {
		return filepath.Join(f.dir, "cgroup.freeze")
	}
	return filepath.Join(f.dir, "freezer.state")
}

// freezeLook is the time between two looks at whether all processes have
// stopped. On v1 the look itself is what moves a FREEZING group on (kernel:
// kernel/cgroup/legacy_freezer.c, update_if_frozen). On v2 there is an event,
// which the kernel holds back for up to 10 ms if there was another just before
// (kernel/cgroup/cgroup.c, cgroup_file_notify): longer than the freeze takes.
const freezeLook = 100 * time.Microsecond

// freeze asks for the freeze and returns when every process has stopped.
func (f *freezer) freeze(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	word := "FROZEN"
	if f.unified {
		word = "1"
	}
	if err := os.WriteFile(f.control(), []byte(word), 0); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	for {
		frozen, err := f.frozen()
		if err != nil || frozen {
			return err
		}
		if !f.unified {
			// A thread that was asked on its way into a wait for an exec sleeps on unfrozen, until it is asked again
			// (kernel: kernel/fork.c, wait_for_vfork_done; kernel/freezer.c, freeze_task).
			if err := os.WriteFile(f.control(), []byte(word), 0); err != nil {
				return fmt.Errorf("freeze: %w", err)
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("freeze %s: not all processes stopped within %v; one may be stuck in the kernel: %w",
				f.dir, freezeLimit, ctx.Err())
		}
		time.Sleep(freezeLook)
	}
}

// eventsFile tells, on cgroup v2, what all processes of a cgroup and of those
// below it have come to.
const eventsFile = "cgroup.events"

// saysFrozen reads lines of a name and a number.
func saysFrozen(events []byte) bool {
	for line := range bytes.Lines(events) {
		if string(bytes.TrimSpace(line)) == "frozen 1" {
			return true
		}
	}
	return false
}

// frozen says whether every process has stopped.
func (f *freezer) frozen() (bool, error) {
	if !f.unified {
		b, err := os.ReadFile(f.control())
		return strings.TrimSpace(string(b)) == "FROZEN", err
	}
	b, err := os.ReadFile(filepath.Join(f.dir, eventsFile))
	return saysFrozen(b), err
}

// thaw lets the processes go on.
func (f *freezer) thaw() error {
	word := "THAWED"
	if f.unified {
		word = "0"
	}
	err := os.WriteFile(f.control(), []byte(word), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the container is gone, and so is what was frozen
	}
	if err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	return nil
}

// processes lists all processes of the container, also those in cgroups that
// it made below its own.
func (f *freezer) processes() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(f.dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // removed while we looked
		}
		if err != nil || !d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil
			}
			return err
		}
		for _, line := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", f.dir, err)
	}
	return pids, nil
}

// kill sends SIGKILL to every process. On v1 they die when they are thawed: in
// a frozen cgroup all of them have it pending before any can run again. On v2
// the kernel does it, also to what is being forked, and a frozen process dies at
// once (kernel: kernel/cgroup/cgroup.c, cgroup_kill_write).
func (f *freezer) kill() error {
	pids, err := f.processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		lowerPriority(pid)
	}
	if f.unified {
		err := os.WriteFile(filepath.Join(f.dir, "cgroup.kill"), []byte("1"), 0)
		if err == nil {
			return nil
		}
		// Before Linux 5.14 there is no such file.
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("kill %s: %w", f.dir, err)
		}
	}
	for _, pid := range pids {
		if e := unix.Kill(pid, unix.SIGKILL); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill process %d: %w", pid, e))
		}
	}
	return err
}

// lowerPriority makes all threads of a process the last to run: what they have
// yet to do is to free their memory, 50 ms for each GB, and nobody waits for it.
func lowerPriority(pid int) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return // it is gone
	}
	for _, t := range threads {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			unix.Setpriority(unix.PRIO_PROCESS, tid, 19)
		}
	}
}

// vpid is a process' pid in its innermost pid namespace, which is how CRIU's
// images name it.
func vpid(pid int) (int, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("status of process %d: %w", pid, err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		ids, ok := strings.CutPrefix(lines.Text(), "NSpid:")
		if !ok {
			continue
		}
		f := strings.Fields(ids)
		if len(f) == 0 {
			break
		}
		return strconv.Atoi(f[len(f)-1])
	}
	return 0, fmt.Errorf("process %d has no NSpid in its status", pid)
}
