// Package cpuquota lowers the processor time that a control group may use, and puts it back
// exactly as it was: also when who lowered it has died, by a record that was written before,
// and never over what somebody else has set meanwhile. How low it goes is for others to
// decide.
package cpuquota

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
)

// root is where control groups are mounted.
const root = "/sys/fs/cgroup"

// ErrNoQuota is wrapped by the error of a control group whose processor time cannot be
// limited.
var ErrNoQuota = errors.New("processor time of the control group cannot be limited")

// Group is one control group.
type Group struct {
	unified bool
	// quota has the limit, cpu.cfs_quota_us or cpu.max, period is cpu.cfs_period_us of
	// version 1, burst bounds the limit from below, and usage has what was used.
	quota, period, burst, usage string
}

// Open finds the control group of a process.
func Open(pid int) (*Group, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("control group of process %d: %w", pid, err)
	}
	unified := cgroups.Mode() == cgroups.Unified
	cpu, err := dir(string(b), "cpu", unified)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	usage, err := dir(string(b), "cpuacct", unified)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return open(cpu, usage, unified)
}

// open is the group whose files are in these directories.
func open(cpu, usage string, unified bool) (*Group, error) {
	g := &Group{
		quota: filepath.Join(cpu, "cpu.cfs_quota_us"), period: filepath.Join(cpu, "cpu.cfs_period_us"),
		burst: filepath.Join(cpu, "cpu.cfs_burst_us"), usage: filepath.Join(usage, "cpuacct.usage"),
	}
	if unified {
		g = &Group{
			unified: true, quota: filepath.Join(cpu, "cpu.max"), burst: filepath.Join(cpu, "cpu.max.burst"),
			usage: filepath.Join(usage, "cpu.stat"),
		}
	}
	if _, err := os.Stat(g.quota); err != nil {
		return nil, fmt.Errorf("%w: %w; enable the cpu controller there, and CONFIG_CFS_BANDWIDTH", ErrNoQuota, err)
	}
	return g, nil
}

// dir is the directory of a process' group in a controller's hierarchy, as
// /proc/PID/cgroup tells it in lines of hierarchy-ID:controller-list:path.
func dir(lines, controller string, unified bool) (string, error) {
	for line := range strings.Lines(lines) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(f) != 3:
		case unified && f[0] == "0":
			return filepath.Join(root, f[2]), nil
		case !unified && has(f[1], controller):
			return filepath.Join(mountOf(f[1], controller), f[2]), nil
		}
	}
	return "", fmt.Errorf("%w: it is in none of the controller %s", ErrNoQuota, controller)
}

// mountOf is where a hierarchy of version 1 is mounted: by the name of the controller, or
// by all that it has together.
func mountOf(controllers, controller string) string {
	if at := filepath.Join(root, controllers); exists(at) {
		return at
	}
	return filepath.Join(root, controller)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func has(list, name string) bool {
	for c := range strings.SplitSeq(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

// Used is the processor time that the group has used so far.
func (g *Group) Used() (time.Duration, error) {
	text, err := read(g.usage)
	if err != nil {
		return 0, err
	}
	unit := time.Nanosecond
	if g.unified {
		_, text, _ = strings.Cut(text, "usage_usec ")
		text, _, _ = strings.Cut(text, "\n")
		unit = time.Microsecond
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("processor time in %s: %w", g.usage, err)
	}
	return time.Duration(n) * unit, nil
}

// limit is a quota as the kernel has it: its text, and what that means, cores. 0 cores
// are no limit.
type limit struct {
	text   string
	cores  float64
	period time.Duration
}

// now is the limit of the group.
func (g *Group) now() (limit, error) {
	text, err := read(g.quota)
	if err != nil {
		return limit{}, err
	}
	quota, period := text, ""
	if g.unified {
		quota, period, _ = strings.Cut(text, " ")
	} else if period, err = read(g.period); err != nil {
		return limit{}, err
	}
	us, err := strconv.ParseInt(period, 10, 64)
	if err != nil || us <= 0 {
		return limit{}, fmt.Errorf("period of %s is %q", g.quota, period)
	}
	l := limit{text: text, period: time.Duration(us) * time.Microsecond}
	if quota == "max" || quota == "-1" {
		return l, nil
	}
	q, err := strconv.ParseInt(quota, 10, 64)
	if err != nil || q <= 0 {
		return limit{}, fmt.Errorf("quota in %s is %q", g.quota, text)
	}
	l.cores = float64(q) / float64(us)
	return l, nil
}

// leastQuota is the least that kernels take, min_cfs_quota_period (kernel:
// kernel/sched/core.c).
const leastQuota = time.Millisecond

// text is how so many cores are written in a period. No quota may be below the burst.
func (g *Group) text(cores float64, period time.Duration) string {
	quota := max(leastQuota, time.Duration(cores*float64(period)))
	if b, err := read(g.burst); err == nil {
		if us, err := strconv.ParseInt(b, 10, 64); err == nil {
			quota = max(quota, time.Duration(us)*time.Microsecond)
		}
	}
	if g.unified {
		return fmt.Sprintf("%d %d", quota.Microseconds(), period.Microseconds())
	}
	return strconv.FormatInt(quota.Microseconds(), 10)
}

func read(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("processor time: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
