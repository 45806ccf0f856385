// Command enginebench compares what finds and carries dirty pages: engine WriteProtect, engine SoftDirty, and an operator
// who moves a container with plain runc commands. All move redis of the same size, under the same writes, with as many
// rounds, between the same two nodes and in turns, so that what else the machine does falls on all of them; only ratios are
// judged. It needs a kernel that has what both engines need: `go run ./test/vm -bench` runs it in a virtual machine.
//
// What the engines say of themselves is checked from outside: the pages that redis writes by the other engine's kernel
// feature, how long it stands still by a client's clock.
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

	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/test/figure"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// labDir is the bench's own lab. It must not be on an overlay.
const labDir = "/var/tmp/godwit-enginebench"

// cleanLimit is how long cleaning up may take, also after Ctrl-C.
const cleanLimit = 2 * time.Minute

// options are the flags.
type options struct {
	out      string
	memory   int64 // MiB
	rate     int
	rounds   int
	turns    int
	observed int
}

func main() {
	var o options
	flag.StringVar(&o.out, "out", "out/engines.json", "`file` for the figures")
	flag.Int64Var(&o.memory, "memory", 512, "what redis is filled with, `MiB`: what runc does by hand grows with it, and pods that are worth a live move are not smaller")
	flag.IntVar(&o.rate, "rate", 1000, "the client's writes a second")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds before the freeze, the first full copy among them; 2 at least")
	flag.IntVar(&o.turns, "turns", 3, "moves of each kind that are timed; the medians count")
	flag.IntVar(&o.observed, "observed", 2, "moves of each engine during which redis' pages are watched; the sums count")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "enginebench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.rounds < 2 || o.turns < 1 || o.observed < 1 {
		return errors.New("nothing could be judged: use two rounds, one turn and one observed move at least")
	}
	if err := features(); err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), pace.Stretch(cleanLimit))
		defer cancel()
		err = errors.Join(err, lab.Down(clean, labDir))
	}()
	b := &bench{options: o}
	if err := b.measure(ctx); err != nil {
		return err
	}
	r := b.report()
	figure.Print(os.Stdout, r.Figures)
	if err := figure.WriteReport(o.out, r); err != nil {
		return err
	}
	return figure.Judge(r.Figures)
}

// features fails if one of the engines would not work here.
func features() error {
	if err := errors.Join(pagemap.ProbeSoftDirty(), pagemap.ProbeScan(), pagemap.ProbeWPAsync()); err != nil {
		return fmt.Errorf("engines cannot be compared on this kernel, run it with `go run ./test/vm -bench`: %w", err)
	}
	return nil
}
