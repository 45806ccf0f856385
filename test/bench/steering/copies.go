package steering

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/pagestream/wire"
)

// What is copied to see what it costs to be ready for deltas over a link that holds nothing back.
const (
	copiedBytes  = 32 << 20
	copiedRounds = 6 // after the first one
)

// Copies is what came of that.
type Copies struct {
	// Cost is the processor's time that rounds take, of both ends and the kernel, with deltas allowed and as a multiple of
	// what they take when whole pages are asked for: the median of pairs.
	Cost float64
	// Deltas are pages that went as what changed in them, in all rounds together.
	Deltas uint64
	// Sent are all pages.
	Sent uint64
}

// MeasureCopies sends memory of which all pages are written anew before each round, so that deltas are of no use, over a link without a limit,
// once with deltas allowed and once without, in turns. The processor's time is compared: the machine may have other things to do.
func MeasureCopies(ctx context.Context, dir string, pairs int) (Copies, error) {
	var c Copies
	b, err := newBench(dir, 0, copiedBytes)
	if err != nil {
		return c, err
	}
	defer b.close()
	fillRandom(b.memory)
	var ratios []float64
	for pair := range pairs {
		var cost [2]float64 // without, with
		for turn := range 2 {
			with := (turn + pair) % 2
			cpu, stats, err := b.rounds(ctx, with == 0)
			if err != nil {
				return c, err
			}
			cost[with] = cpu
			c.Deltas += stats.Deltas
			c.Sent += stats.Sent
		}
		ratios = append(ratios, cost[1]/cost[0])
	}
	c.Cost = median(ratios)
	return c, nil
}

// rounds makes the rounds of a session of its own and returns the processor's time, in seconds.
func (b *bench) rounds(ctx context.Context, wholePages bool) (cpu float64, stats precopy.CopyStats, err error) {
	s, err := wire.Dial(ctx, wire.DialOptions{
		Address: b.listener.Addr().String(), ServerName: "b", Credentials: b.sender, Migration: "copies", Streams: streams,
	})
	if err != nil {
		return 0, stats, err
	}
	defer func() {
		if closed := s.Close(); err == nil {
			err = closed
		}
	}()
	rounds, err := precopy.New(precopy.Config{
		Policy:  precopy.Policy{Rule: precopy.S0, FirstRounds: copiedRounds, MaxRounds: copiedRounds, DirtyLimit: 1},
		Tracker: &rewritten{memory: b.memory}, Session: precopy.Over(s), WholePages: wholePages, Pace: &precopy.Urgent, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return 0, stats, err
	}
	defer rounds.Close()
	before, err := processorTime()
	if err != nil {
		return 0, stats, err
	}
	res, err := rounds.Run(ctx)
	if err != nil {
		return 0, stats, err
	}
	after, err := processorTime()
	for _, r := range res.Rounds {
		stats.Deltas += r.Copied.Deltas
		stats.Sent += r.Copied.Sent
	}
	if want := uint64(copiedRounds+1) * copiedBytes / pagestream.PageSize; stats.Sent != want {
		return 0, stats, fmt.Errorf("%d pages were sent, want %d", stats.Sent, want)
	}
	return after - before, stats, err
}

// processorTime is what this process has used so far, in seconds.
func processorTime() (float64, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("processor's time: %w", err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9, nil
}

// rewritten is a tracker of memory of this process, all of which changes before each round.
type rewritten struct{ memory []byte }

// Collect implements precopy.Tracker.
func (r *rewritten) Collect(context.Context) (track.Round, error) {
	for at := 0; at < len(r.memory); at += 8 {
		word := r.memory[at : at+8]
		binary.LittleEndian.PutUint64(word, binary.LittleEndian.Uint64(word)*5+1)
	}
	all := []pagestream.Range{{Start: addressOf(r.memory), Pages: uint64(len(r.memory)) / pagestream.PageSize}}
	return track.Round{Processes: []track.ProcessRound{{
		Process: track.Process{PID: os.Getpid(), Space: pagestream.Space{Kind: pagestream.Process, ID: 1}},
		Dirty:   all, Written: all, Pages: all[0].Pages,
	}}, Pages: all[0].Pages, Ranges: 1}, nil
}

// CollectFrozen implements precopy.Tracker.
func (r *rewritten) CollectFrozen(ctx context.Context) (track.Round, error) { return r.Collect(ctx) }
