package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

// watch watches how much memory something takes.
type watch struct {
	end  chan struct{}
	done sync.WaitGroup

	first, most uint64
	err         error
}

// watchInterval is how often it is looked at.
const watchInterval = 5 * time.Millisecond

// newWatch watches what taken says, bytes, until stop is called.
func newWatch(taken func() (uint64, error)) *watch {
	w := &watch{end: make(chan struct{})}
	w.first, w.err = taken()
	w.most = w.first
	w.done.Go(func() {
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for w.err == nil {
			select {
			case <-tick.C:
				var now uint64
				now, w.err = taken()
				w.most = max(w.most, now)
			case <-w.end:
				return
			}
		}
	})
	return w
}

// stop returns what was taken at first, and at most, bytes.
func (w *watch) stop() (first, most uint64, err error) {
	close(w.end)
	w.done.Wait()
	return w.first, w.most, w.err
}

// watchShim watches the shim of a pod.
func watchShim(p *trial.Pod) *watch {
	pid := shimPID(p)
	return newWatch(func() (uint64, error) { return resident(pid), nil })
}

// noteGrowth takes over by how much a shim grew at most.
func (b *bench) noteGrowth(w *watch) error {
	first, most, err := w.stop()
	b.agentGrowth = max(b.agentGrowth, most-first)
	fmt.Printf("       the source's shim grew by %.1f MiB\n", float64(most-first)/(1<<20))
	return err
}

// shimPID finds the shim of a pod by its arguments.
func shimPID(p *trial.Pod) int {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		b, err := os.ReadFile(path)
		args := strings.Split(string(b), "\x00")
		if err != nil || !strings.HasSuffix(args[0], "containerd-shim-godwit-v2") || !slices.Contains(args, p.ID()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil {
			return pid
		}
	}
	return 0
}

// resident is a process' resident memory, bytes.
func resident(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseUint(f[1], 10, 64)
	return n * uint64(os.Getpagesize())
}

// nodeMemory is what processes and tmpfs of a node take, bytes.
func nodeMemory(n *lab.Node) (uint64, error) {
	for _, v := range []struct{ file, anonymous, shared string }{
		{filepath.Join("/sys/fs/cgroup/memory", n.Cgroup(), "memory.stat"), "total_rss", "total_shmem"},
		{filepath.Join("/sys/fs/cgroup", n.Cgroup(), "memory.stat"), "anon", "shmem"},
	} {
		text, err := os.ReadFile(v.file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		sum, found := uint64(0), 0
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if name != v.anonymous && name != v.shared {
				continue
			}
			bytes, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", v.file, err)
			}
			sum, found = sum+bytes, found+1
		}
		if found == 2 {
			return sum, nil
		}
	}
	return 0, fmt.Errorf("no memory cgroup tells what node %s takes", n.Name)
}
