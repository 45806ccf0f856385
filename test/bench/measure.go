package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"godwit.dev/godwit/test/bench/matrix"
	"godwit.dev/godwit/test/bench/steering"
	"godwit.dev/godwit/test/bench/traces"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

// rate is the client's writes a second.
const rate = 5000

// bench collects figures.
type bench struct {
	repeat int
	out    string // file for the figures
	tableOptions

	byMemory     map[int64]*moves
	gigabit      *moves      // of the small redis over 1 Gbit/s; nil: not measured
	ticked       *moves      // of the small redis with a ticker beside it; nil: not measured
	containers   *containers // nil: not measured
	copyRates    []float64   // first full copies of incompressible memory, bytes a second
	agentGrowth  uint64      // of the source's shim, bytes
	lost, wrong  uint64
	survived     *bool // the pod outlived its source node; nil: not tried
	acked, lines uint64
	absorbed     float64             // speed of our page server / of criu's; 0: not measured
	throttled    *throttled          // nil: not tried
	hybrid       *hybrid             // nil: not tried
	broken       *aborted            // off, at random stages; nil: not tried
	unchanged    *unchanged          // nil: not measured
	deltas       []deltaMoves        // none: not measured
	steering     []steering.Cell     // of the choice of codecs; none: not measured
	copies       *steering.Copies    // nil: not measured
	compared     []traces.Comparison // the rules, by replay; none: not compared
	hopeless     []traces.Comparison // of programs that no rule helps
	crowds       []crowd             // pods that move at once; none: not measured
	table        *matrix.Table       // nil: not measured
	peaks        []float64           // of a destination's memory, as multiples of the pod's there
}

// errDamaged ends the bench at once.
var errDamaged = errors.New("a move lost or changed data")

// note takes over what a trial verified.
func (b *bench) note(r *trial.Result) error {
	b.lost, b.wrong = b.lost+r.Lost, b.wrong+r.Wrong
	b.acked, b.lines = r.Acked, r.Lines
	if r.Damaged() {
		return fmt.Errorf("%w: %d writes lost, %d values wrong", errDamaged, r.Lost, r.Wrong)
	}
	return nil
}

// start brings two nodes up, with such a link, and on the first a pod with a filled redis.
func start(ctx context.Context, link lab.Shape, memory int64, ticker bool) (*lab.Lab, *trial.Pod, error) {
	l, err := lab.Up(ctx, lab.Options{Dir: labDir, Shape: link})
	if err != nil {
		return nil, nil, err
	}
	fmt.Printf("filling redis with %d MiB\n", memory>>20)
	p, err := trial.Start(ctx, l, trial.Spec{Node: "a", Memory: memory, Ticker: ticker})
	if err != nil {
		l.Close()
	}
	return l, p, err
}

// other is the node that a pod is not on.
func other(p *trial.Pod) string {
	if p.Node().Name == "a" {
		return "b"
	}
	return "a"
}

// move moves the pod to the other node and tells about it.
func (b *bench) move(ctx context.Context, p *trial.Pod, c trial.Config) (*trial.Result, error) {
	c.To = other(p)
	r, err := p.Move(ctx, c)
	if err != nil {
		return nil, err
	}
	fmt.Printf("  %-4s to %s: downtime %6.1f ms, longest gap after it %5.1f ms (%d writes in that second, %d before), total %7.1f ms, longest stall in the rounds %4.1f ms, %d rounds\n",
		r.Mode, c.To, ms(r.Gap.Length()), ms(r.Later.Length()), r.After, r.Before, r.TotalMS, ms(r.LongestStall()), len(r.Rounds))
	if d := r.Downtime; d != nil {
		fmt.Printf("       %+v\n", *d)
	}
	return r, b.note(r)
}

// firstCopies is how many moves measure the first copy; the median counts.
const firstCopies = 5

// firstCopy moves the pod with nobody writing: its first round is one copy of
// memory that does not compress, and its shim's memory is watched. Immediately
// before each, memory that the machine's host took back is made resident, as one
// drops caches elsewhere: see lab.KeepMemory, which not every kernel lets us do.
func (b *bench) firstCopy(ctx context.Context) error {
	l, p, err := start(ctx, lab.Shape{}, smallMemory, false)
	if err != nil {
		return err
	}
	defer l.Close()
	for range firstCopies {
		if err := lab.TouchMemory(2 * smallMemory); err != nil {
			return err
		}
		watch := watchShim(p)
		r, err := b.move(ctx, p, trial.Config{Flags: []string{"--compression", "none"}})
		if err := errors.Join(err, b.noteGrowth(watch)); err != nil {
			return err
		}
		if len(r.Rounds) == 0 {
			return errors.New("the move tells of no rounds")
		}
		first := r.Rounds[0]
		rate := float64(first.DirtyPages*4096) / ((first.DurationMS - first.ScanMS) / 1000)
		fmt.Printf("       first copy %.2f GB/s\n", rate/1e9)
		b.copyRates = append(b.copyRates, rate)
	}
	return nil
}

// lossOfSource kills the source node 1 ms after the commit: the pod must live
// with all its memory.
func (b *bench) lossOfSource(ctx context.Context) error {
	l, p, err := start(ctx, lab.Shape{}, smallMemory, false)
	if err != nil {
		return err
	}
	defer l.Close()
	source := p.Node()
	var killed error
	_, err = b.move(ctx, p, trial.Config{Rate: rate, SourceDies: true, OnEvent: func(e move.Event) {
		if e.Kind == "committed" {
			time.Sleep(time.Millisecond)
			killed = source.Kill()
		}
	}})
	if killed != nil {
		return killed
	}
	survived := err == nil
	b.survived = &survived
	return err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median[T cmp.Ordered](values []T) T {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}
