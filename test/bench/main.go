// Command bench measures what Godwit promises, all of it in one run on one
// machine, and fails if a promise is not kept. `make bench` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"godwit.dev/godwit/test/bench/claim"
	"godwit.dev/godwit/test/bench/steps"
	"godwit.dev/godwit/test/figure"
	"godwit.dev/godwit/test/lab"
)

// labDir is the bench's own lab.
var labDir = claim.Dir()

// cleanLimit is how long cleaning up may take, also after Ctrl-C.
const cleanLimit = 2 * time.Minute

func main() {
	out := flag.String("out", "out/bench.json", "file for the figures")
	repeat := flag.Int("repeat", 3, "moves of the small redis each way; the median counts")
	only := flag.String("only", "", "run only these steps, by name, with commas: "+steps.Names(all))
	var t tableOptions
	t.register(flag.CommandLine)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *repeat, *only, t); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// all are the steps; each has nodes of its own, if it needs any.
var all = []steps.Step[*bench]{
	{Name: "rules", Alone: true, Run: (*bench).rules},
	{Name: "first-copy", Run: (*bench).firstCopy},
	{Name: "downtime", Run: (*bench).small},
	{Name: "gigabit", Run: (*bench).overGigabit},
	{Name: "containers", Run: (*bench).severalContainers},
	{Name: "stall", Run: (*bench).ticking},
	{Name: "growth", Run: (*bench).big},
	{Name: "most-memory", Run: (*bench).most},
	{Name: "peak", Run: (*bench).destinationPeaks},
	{Name: "eleven", Run: (*bench).eleven},
	{Name: "throttle", Run: (*bench).throttle},
	{Name: "hybrid", Run: (*bench).fetched},
	{Name: "aborts", Run: (*bench).aborted},
	{Name: "unchanged", Run: (*bench).unchangedPages},
	{Name: "deltas", Run: (*bench).deltaPages},
	{Name: "steering", Run: (*bench).steered},
	{Name: "loss", Run: (*bench).lossOfSource},
	{Name: "page-server", Run: (*bench).pageServer},
	{Name: "table", Run: (*bench).measureTable},
}

func run(ctx context.Context, out string, repeat int, only string, t tableOptions) error {
	chosen, err := steps.Choose(all, only)
	if err != nil {
		return err
	}
	b := &bench{repeat: repeat, out: out, tableOptions: t, byMemory: map[int64]*moves{}}
	if steps.NeedNodes(chosen) {
		err = b.onNodes(ctx, chosen)
	} else {
		err = b.do(ctx, chosen)
	}
	if err != nil {
		return err
	}
	r := b.report()
	figure.Print(os.Stdout, r.Figures)
	if err := figure.WriteReport(out, r); err != nil {
		return err
	}
	return figure.Judge(r.Figures)
}

// onNodes does steps with the directory of their nodes claimed. What a bench that was killed has left there goes first.
func (b *bench) onNodes(ctx context.Context, chosen []steps.Step[*bench]) (err error) {
	release, err := claim.Take(labDir)
	if err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		err = errors.Join(err, lab.Down(clean, labDir), release())
	}()
	if err := lab.Down(ctx, labDir); err != nil {
		return err
	}
	leave, err := lab.BeClient()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	kept, report, err := lab.KeepMemory(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, report()) }()
	if !kept {
		fmt.Println("this machine gives free memory back to its host and cannot be kept from it: new memory is slow, and so are moves of much")
	}
	return b.do(ctx, chosen)
}

// do does steps, and takes the nodes of each down.
func (b *bench) do(ctx context.Context, chosen []steps.Step[*bench]) error {
	for _, s := range chosen {
		if err := s.Run(b, ctx); err != nil {
			return fmt.Errorf("step %s: %w", s.Name, err)
		}
		if s.Alone {
			continue
		}
		if err := lab.Down(ctx, labDir); err != nil {
			return err
		}
	}
	return nil
}
