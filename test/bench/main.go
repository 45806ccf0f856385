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
	"slices"
	"strings"
	"syscall"
	"time"

	"godwit.dev/godwit/test/figure"
	"godwit.dev/godwit/test/lab"
)

// labDir is the bench's own lab.
const labDir = "/var/lib/godwit-bench"

// cleanLimit is how long cleaning up may take, also after Ctrl-C.
const cleanLimit = 2 * time.Minute

func main() {
	out := flag.String("out", "out/bench.json", "file for the figures")
	repeat := flag.Int("repeat", 3, "moves of the small redis each way; the median counts")
	only := flag.String("only", "", "run only these steps, by name, with commas: "+strings.Join(stepNames(), ", "))
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *repeat, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// step is a part of the bench that has nodes of its own.
type step struct {
	name string
	run  func(*bench, context.Context) error
}

var steps = []step{
	{"rules", (*bench).rules},
	{"first-copy", (*bench).firstCopy},
	{"downtime", (*bench).small},
	{"stall", (*bench).ticking},
	{"growth", (*bench).big},
	{"loss", (*bench).lossOfSource},
	{"page-server", (*bench).pageServer},
}

func stepNames() []string {
	var names []string
	for _, s := range steps {
		names = append(names, s.name)
	}
	return names
}

// choose returns the steps of these names, all of them for none.
func choose(only string) ([]step, error) {
	if only == "" {
		return steps, nil
	}
	var chosen []step
	for _, name := range strings.Split(only, ",") {
		i := slices.IndexFunc(steps, func(s step) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no step has the name %q: use some of %s", name, strings.Join(stepNames(), ", "))
		}
		chosen = append(chosen, steps[i])
	}
	return chosen, nil
}

func run(ctx context.Context, out string, repeat int, only string) (err error) {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		err = errors.Join(err, lab.Down(clean, labDir))
	}()
	b := &bench{repeat: repeat}
	for _, s := range chosen {
		if err := s.run(b, ctx); err != nil {
			return fmt.Errorf("step %s: %w", s.name, err)
		}
		if err := lab.Down(ctx, labDir); err != nil {
			return err
		}
	}
	r := b.report()
	figure.Print(os.Stdout, r.Figures)
	if err := figure.WriteReport(out, r); err != nil {
		return err
	}
	return figure.Judge(r.Figures)
}
