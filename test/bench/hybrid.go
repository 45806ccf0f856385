package main

import (
	"context"
	"fmt"
	"time"

	"godwit.dev/godwit/test/trial"
)

const (
	hybridMemory = 2 << 30
	// hybridRate is how many values a second are written, each on a page of its own: 50 MB/s, twice what the link takes.
	hybridRate = 12_200
)

// hybrid is a move that rounds alone could not end.
type hybrid struct {
	downtime time.Duration // until the pod runs again
	waited   time.Duration // the longest gap in its client's answers, from the freeze on
	bytes    float64       // sent, as a multiple of the memory
}

// fetched measures a move, in mode hybrid, of a pod that writes faster than the link copies.
func (b *bench) fetched(ctx context.Context) error {
	l, p, err := start(ctx, throttleLink, hybridMemory, false)
	if err != nil {
		return err
	}
	defer l.Close()
	r, err := b.move(ctx, p, trial.Config{Rate: hybridRate, Flags: []string{"--mode", "hybrid"}})
	if err != nil {
		return err
	}
	b.hybrid = &hybrid{
		downtime: time.Duration(r.DowntimeMS * float64(time.Millisecond)), waited: max(r.Gap.Length(), r.Later.Length()),
		bytes: float64(r.WireBytesSent) / float64(r.MemoryBytes),
	}
	fmt.Printf("  hybrid: %d pages left at the source, %d faults waited for some, %.2f times the memory sent, %s\n",
		r.LeftPages, r.RemoteFaults, b.hybrid.bytes, r.StopReason)
	return nil
}
