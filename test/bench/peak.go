package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

// peakShare is what store and pod may take together at a destination at most, as a multiple
// of what the pod takes there.
const peakShare = 1.15

// destinationPeaks measures how much memory a node takes at most while a pod comes in, as a
// multiple of what it takes for it in the end: store, pod, shim and daemon, all in the node's
// memory cgroup.
func (b *bench) destinationPeaks(ctx context.Context) error {
	l, p, err := start(ctx, smallMemory, false)
	if err != nil {
		return err
	}
	defer l.Close()
	for range b.repeat {
		to := l.Node(other(p))
		before, err := nodeMemory(to)
		if err != nil {
			return err
		}
		watch := watchNode(to)
		r, err := b.move(ctx, p, trial.Config{Rate: rate})
		if err == nil {
			err = awaitNoStore(ctx, to)
		}
		most, werr := watch.stop()
		if err := errors.Join(err, werr); err != nil {
			return err
		}
		after, err := nodeMemory(to)
		if err != nil {
			return err
		}
		if after <= before || most < after {
			return fmt.Errorf("node %s takes %d bytes before the move, %d at most and %d after it", to.Name, before, most, after)
		}
		share := float64(most-before) / float64(after-before)
		fmt.Printf("       node %s took %d MiB at most, %d MiB in the end: %.2f times; longest gap after the move %.1f ms\n",
			to.Name, (most-before)>>20, (after-before)>>20, share, ms(r.Later.Length()))
		b.peaks = append(b.peaks, share)
	}
	return nil
}

// awaitNoStore returns when a node has no store of a migration any more.
func awaitNoStore(ctx context.Context, n *lab.Node) error {
	for {
		left, err := os.ReadDir(n.Path("/run/godwit/store"))
		if err != nil || len(left) == 0 {
			return err
		}
		pause := time.NewTimer(watchInterval)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
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

// nodeWatch watches how much memory a node takes.
type nodeWatch struct {
	end  chan struct{}
	done sync.WaitGroup

	most uint64
	err  error
}

func watchNode(n *lab.Node) *nodeWatch {
	w := &nodeWatch{end: make(chan struct{})}
	w.done.Go(func() {
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				now, err := nodeMemory(n)
				w.most, w.err = max(w.most, now), errors.Join(w.err, err)
				if err != nil {
					return
				}
			case <-w.end:
				return
			}
		}
	})
	return w
}

// stop returns what the node took at most, bytes.
func (w *nodeWatch) stop() (uint64, error) {
	close(w.end)
	w.done.Wait()
	return w.most, w.err
}
