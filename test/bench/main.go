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

	"godwit.dev/godwit/test/lab"
)

// labDir is the bench's own lab.
const labDir = "/var/lib/godwit-bench"

// cleanLimit is how long cleaning up may take, also after Ctrl-C.
const cleanLimit = 2 * time.Minute

func main() {
	out := flag.String("out", "out/bench.json", "file for the figures")
	repeat := flag.Int("repeat", 3, "moves of the small redis each way; the median counts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *repeat); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errMissed ends a bench of which a figure was not reached.
var errMissed = errors.New("figures were missed, see the table")

func run(ctx context.Context, out string, repeat int) (err error) {
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		err = errors.Join(err, lab.Down(clean, labDir))
	}()
	b := &bench{repeat: repeat}
	for _, step := range []func(context.Context) error{b.small, b.ticking, b.big, b.lossOfSource} {
		if err := step(ctx); err != nil {
			return err
		}
		if err := lab.Down(ctx, labDir); err != nil {
			return err
		}
	}
	r := b.report()
	r.print()
	if err := r.write(out); err != nil {
		return err
	}
	if r.missed() {
		return errMissed
	}
	return nil
}
