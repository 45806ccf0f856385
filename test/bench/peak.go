package main

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	l, p, err := start(ctx, lab.Shape{}, smallMemory, false)
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
		watch := newWatch(func() (uint64, error) { return nodeMemory(to) })
		r, err := b.move(ctx, p, trial.Config{Rate: rate})
		if err == nil {
			err = awaitNoStore(ctx, to)
		}
		_, most, werr := watch.stop()
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
