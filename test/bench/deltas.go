package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
	"godwit.dev/godwit/test/workload"
)

// What is moved over throttleLink to see what deltas gain: a program that changes 32 bytes of each page of
// fewMiB in turn, of fewRate a second, and a redis with random values.
const (
	fewMiB, fewRate     = 24, 20
	deltaRedis          = 128 << 20
	deltaRedisRate      = 2000
	freeRedis           = 512 << 20
	deltaMovesOfProgram = 4
)

// deltaMoves are a program's moves with deltas and without, medians.
type deltaMoves struct {
	name        string
	with, whole deltaMove
}

// deltaMove is what a move took.
type deltaMove struct {
	bytes           float64 // over the link, as a multiple of the pod's memory
	downtime, total time.Duration
	share           float64 // of the pages sent that were sent as deltas
}

func measuredMove(r *move.Result) deltaMove {
	d := func(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
	return deltaMove{
		bytes:    float64(r.WireBytesSent) / float64(r.MemoryBytes),
		downtime: d(r.DowntimeMS), total: d(r.TotalMS),
		share: float64(r.DeltaPages) / float64(max(1, r.DeltaPages+r.PagesSent)),
	}
}

// deltaPages measures what it gains that pages which changed but little are sent as what changed.
func (b *bench) deltaPages(ctx context.Context) error {
	for _, program := range []func(context.Context) (*deltaMoves, error){b.fewBytes, b.setsOverSlowLink, b.setsOverFreeLink} {
		d, err := program(ctx)
		if err != nil {
			return err
		}
		b.deltas = append(b.deltas, *d)
		if err := lab.Down(ctx, labDir); err != nil {
			return err
		}
	}
	return nil
}

// inTurns moves a pod there and back, with deltas and without them, each in both directions.
func inTurns(name string, moveTo func(flags ...string) (*move.Result, error)) (*deltaMoves, error) {
	type way struct {
		flags []string
		moves *[]deltaMove
	}
	var with, whole []deltaMove
	ways := []way{{nil, &with}, {[]string{"--whole-pages"}, &whole}}
	for range deltaMovesOfProgram {
		for _, way := range ways {
			r, err := moveTo(way.flags...)
			if err != nil {
				return nil, fmt.Errorf("%s %v: %w", name, way.flags, err)
			}
			m := measuredMove(r)
			*way.moves = append(*way.moves, m)
			fmt.Printf("  %s %v: %.2f times the memory sent, downtime %.0f ms, total %.1f s, %.2f of the pages as deltas, %d rounds, %s\n",
				name, way.flags, m.bytes, ms(m.downtime), m.total.Seconds(), m.share, len(r.Rounds), r.StopReason)
		}
		slices.Reverse(ways)
	}
	return &deltaMoves{name, middleOf(with), middleOf(whole)}, nil
}

func middleOf(moves []deltaMove) deltaMove {
	pick := func(of func(deltaMove) float64) float64 {
		var all []float64
		for _, m := range moves {
			all = append(all, of(m))
		}
		return median(all)
	}
	return deltaMove{
		bytes:    pick(func(m deltaMove) float64 { return m.bytes }),
		downtime: time.Duration(pick(func(m deltaMove) float64 { return float64(m.downtime) })),
		total:    time.Duration(pick(func(m deltaMove) float64 { return float64(m.total) })),
		share:    pick(func(m deltaMove) float64 { return m.share }),
	}
}

// fewBytes moves a program that changes a few bytes of many pages.
func (b *bench) fewBytes(ctx context.Context) (*deltaMoves, error) {
	l, err := lab.Up(ctx, lab.Options{Dir: labDir, Shape: throttleLink})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if _, err := rewrite(ctx, l, fewMiB, fewRate, "0", "few"); err != nil {
		return nil, err
	}
	at, to := "a", "b"
	name := "32 bytes changed in each page of " + strconv.Itoa(fewMiB) + " MiB, 200 Mbit/s"
	return inTurns(name, func(flags ...string) (*move.Result, error) {
		r, err := move.Do(ctx, l.Node(at), workload.Rewriter, to, flags...)
		if err == nil {
			at, to = to, at
		}
		return r, err
	})
}

func (b *bench) setsOverSlowLink(ctx context.Context) (*deltaMoves, error) {
	return b.sets(ctx, "redis of 128 MiB, 200 Mbit/s", throttleLink, deltaRedis, deltaRedisRate)
}

// setsOverFreeLink is what deltas cost where the link holds nothing back.
func (b *bench) setsOverFreeLink(ctx context.Context) (*deltaMoves, error) {
	return b.sets(ctx, "redis of 512 MiB, unshaped", lab.Shape{}, freeRedis, rate)
}

// sets moves a redis whose values are replaced.
func (b *bench) sets(ctx context.Context, name string, link lab.Shape, memory int64, writes int) (*deltaMoves, error) {
	l, err := lab.Up(ctx, lab.Options{Dir: labDir, Shape: link})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	p, err := trial.Start(ctx, l, trial.Spec{Node: "a", Memory: memory})
	if err != nil {
		return nil, err
	}
	return inTurns(name, func(flags ...string) (*move.Result, error) {
		watch := watchShim(p)
		r, err := b.move(ctx, p, trial.Config{Rate: writes, Flags: flags})
		if err := errors.Join(err, b.noteGrowth(watch)); err != nil {
			return nil, err
		}
		return r.Result, nil
	})
}
