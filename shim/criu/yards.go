package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CRIU puts a restored container's mounts together in a directory of its own, and removes
// that when all processes exist (criu/mount.c, mnt_roots; depopulate_roots_yard). One that
// is killed before has left it.
const yards = YardDir + "/.criu.mntns.*"

// YardDir is where CRIU makes that directory.
const YardDir = "/tmp"

// HideYards puts an empty file system over YardDir, in the mount namespace of the calling thread, which has to be its own.
func HideYards() error {
	if err := unix.Mount("godwit", YardDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=01777"); err != nil {
		return fmt.Errorf("directory for CRIU's mounts: %w", err)
	}
	return nil
}

// yardAge is by how much a yard must be older than any CRIU that runs to be nobody's:
// times of processes and files are not told by the same clock.
const yardAge = time.Second

// RemoveYards removes what killed restores have left of their mounts, and leaves what may
// be of one that runs: the next call finds that.
func RemoveYards() error {
	made, err := filepath.Glob(yards)
	if err != nil || len(made) == 0 {
		return err
	}
	running, err := startsOf("criu")
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range made {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !abandoned(info.ModTime(), running) {
			continue
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s, which a killed restore left: %w", dir, err))
			continue
		}
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("what a killed restore left: %w", err))
		}
	}
	return errors.Join(errs...)
}

// abandoned says whether a yard that was changed last at a time is of none of the CRIUs
// that were started then and then.
func abandoned(changed time.Time, running []time.Time) bool {
	for _, start := range running {
		if !changed.Before(start.Add(-yardAge)) {
			return false
		}
	}
	return true
}

// startsOf is when the running processes of a name were started.
func startsOf(comm string) ([]time.Time, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, fmt.Errorf("time since boot: %w", err)
	}
	booted := time.Now().Add(-time.Duration(up.Nano()))
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var starts []time.Time
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if since, ok := startOf(string(b), comm); ok {
			starts = append(starts, booted.Add(since))
		}
	}
	return starts, nil
}

// tick is the unit of times in /proc (proc(5): sysconf(_SC_CLK_TCK), 100 everywhere).
const tick = 10 * time.Millisecond

// startOf reads from a process' stat how long after the boot it was started, if it has
// that name and has not ended.
func startOf(stat, comm string) (time.Duration, bool) {
	name, rest, ok := strings.Cut(stat, ") ")
	if _, name, _ = strings.Cut(name, " ("); !ok || name != comm {
		return 0, false
	}
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	return time.Duration(ticks) * tick, err == nil
}
