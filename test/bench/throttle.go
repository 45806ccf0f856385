package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// The rewriter that is throttled: it writes twice what the link takes, of memory that would take ten seconds to copy frozen.
const (
	throttleMiB  = 256
	throttleRate = 50 // MiB a second
)

var throttleLink = lab.Shape{Rate: 200_000_000, Delay: 5 * time.Millisecond}

// throttled are figures of a pod that is held back.
type throttled struct {
	// back is how long after the abort was asked for the quota was as before, and speed what the pod wrote in the second after
	// that, as a share of what it writes otherwise.
	back     time.Duration
	speed    float64
	downtime time.Duration // of its move
}

// throttle measures how soon a pod that is held back runs at full speed again when the migration is broken off, and how long
// it stands still when it is moved.
func (b *bench) throttle(ctx context.Context) error {
	l, err := lab.Up(ctx, lab.Options{Dir: labDir, Shape: throttleLink})
	if err != nil {
		return err
	}
	defer l.Close()
	r, err := rewrite(ctx, l, throttleMiB, throttleRate)
	if err != nil {
		return err
	}
	t := new(throttled)
	if err := t.abort(ctx, l.Node("a"), r); err != nil {
		return err
	}
	result, err := move.Do(ctx, l.Node("a"), workload.Rewriter, "b", throttleFlags...)
	if err != nil {
		return err
	}
	t.downtime = time.Duration(result.DowntimeMS * float64(time.Millisecond))
	fmt.Printf("  throttled: full speed %.1f ms after the abort, %.2f of it in the second after; moved with %.0f ms of downtime, %s\n",
		ms(t.back), t.speed, result.DowntimeMS, result.StopReason)
	b.throttled = t
	return nil
}

var throttleFlags = []string{"--on-stall", "throttle", "--compression", "none"}

// abort breaks a migration off while the pod is held back.
func (t *throttled) abort(ctx context.Context, from *lab.Node, r rewriter) error {
	quota, err := quotaFile()
	if err != nil {
		return err
	}
	was, err := os.ReadFile(quota)
	if err != nil {
		return err
	}
	usual, err := r.inASecond(ctx)
	if err != nil {
		return err
	}
	m, err := move.Start(ctx, from, workload.Rewriter, "b", throttleFlags...)
	if err != nil {
		return err
	}
	if _, err := m.AwaitFunc(ctx, func(e move.Event) bool { return e.Progress != nil && e.Progress.Throttle > 0 }); err != nil {
		return err
	}
	asked := time.Now()
	if err := m.Interrupt(); err != nil {
		return err
	}
	for {
		now, err := os.ReadFile(quota)
		if err != nil {
			return err
		}
		if string(now) == string(was) {
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	t.back = time.Since(asked)
	after, err := r.inASecond(ctx)
	if err != nil {
		return err
	}
	t.speed = float64(after) / float64(usual)
	switch _, err := m.Wait(ctx); {
	case err == nil:
		return errors.New("the pod was moved, though its migration was broken off")
	case !errors.Is(err, move.ErrFailed):
		return err
	}
	return nil
}

// quotaFile is where the rewriter's container has its quota of processors.
func quotaFile() (string, error) {
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range all {
		if comm, _ := os.ReadFile(path); strings.TrimSpace(string(comm)) != workload.Rewriter {
			continue
		}
		groups, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(groups)) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3)
			for _, file := range []string{filepath.Join("/sys/fs/cgroup/cpu", f[2], "cpu.cfs_quota_us"), filepath.Join("/sys/fs/cgroup", f[2], "cpu.max")} {
				if _, err := os.Stat(file); err == nil && (f[1] == "" || strings.Contains(f[1], "cpu") && !strings.Contains(f[1], "cpuset")) {
					return file, nil
				}
			}
		}
	}
	return "", errors.New("the rewriter's control group was not found")
}
