package main

import (
	"context"
	"fmt"
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
	deltaMovesOfProgram = 3
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
	for _, program := range []func(context.Context) (*deltaMoves, error){b.fewBytes, b.setsOverSlowLink} {
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

// inTurns moves a pod there and back, with deltas and without them.
func inTurns(name string, moveTo func(flags ...string) (*move.Result, error)) (*deltaMoves, error) {
	var with, whole []deltaMove
	for range deltaMovesOfProgram {
		for _, way := range []struct {
			flags []string
			moves *[]deltaMove
		}{{nil, &with}, {[]string{"--whole-pages"}, &whole}} {
			r, err := moveTo(way.flags...)
			if err != nil {
				return nil, fmt.Errorf("%s %v: %w", name, way.flags, err)
			}
			m := measuredMove(r)
			*way.moves = append(*way.moves, m)
			fmt.Printf("  %s %v: %.2f times the memory sent, downtime %.0f ms, total %.1f s, %.2f of the pages as deltas, %d rounds, %s\n",
				name, way.flags, m.bytes, ms(m.downtime), m.total.Seconds(), m.share, len(r.Rounds), r.StopReason)
		}
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
	if _, err := rewrite(ctx, l, fewMiB, fewRate, "1", "few"); err != nil {
		return nil, err
	}
	at, to := "a", "b"
	name := "32 bytes changed in each page of " + strconv.Itoa(fewMiB) + " MiB"
	return inTurns(name, func(flags ...string) (*move.Result, error) {
		r, err := move.Do(ctx, l.Node(at), workload.Rewriter, to, flags...)
		if err == nil {
			at, to = to, at
		}
		return r, err
	})
}

// setsOverSlowLink moves a redis whose values are replaced.
func (b *bench) setsOverSlowLink(ctx context.Context) (*deltaMoves, error) {
	l, err := lab.Up(ctx, lab.Options{Dir: labDir, Shape: throttleLink})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	p, err := trial.Start(ctx, l, trial.Spec{Node: "a", Memory: deltaRedis})
	if err != nil {
		return nil, err
	}
	return inTurns("redis of 128 MiB", func(flags ...string) (*move.Result, error) {
		r, err := b.move(ctx, p, trial.Config{Rate: deltaRedisRate, Flags: flags})
		if err != nil {
			return nil, err
		}
		return r.Result, nil
	})
}
