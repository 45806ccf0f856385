// Command demo moves a redis under load between two nodes of its own, live and
// cold, and shows what that cost its clients. `make demo` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

// labDir is the demo's own lab, beside which others may run.
const labDir = "/var/lib/godwit-demo"

// cleanLimit is how long cleaning up may take, also after Ctrl-C.
const cleanLimit = 2 * time.Minute

func main() {
	memory := flag.Int64("memory", 1<<30, "redis' memory, bytes")
	rate := flag.Int("rate", 5000, "writes a second")
	out := flag.String("out", "out/demo.json", "file for the figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *memory, *rate, *out); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// errLost ends a demo that lost data: the one thing that must not happen.
var errLost = errors.New("acknowledged writes were lost or changed")

func run(ctx context.Context, memory int64, rate int, out string) (err error) {
	fmt.Println("Setting up two nodes: the first time this makes a Debian root file system, which takes a minute or two.")
	l, err := lab.Up(ctx, lab.Options{Dir: labDir, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))})
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		err = errors.Join(err, lab.Down(clean, labDir))
	}()
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Printf("Filling redis with %s on node a; a second container appends to a file every 10 ms.\n", size(memory))
	pod, err := trial.Start(ctx, l, trial.Spec{Node: "a", Memory: memory, Ticker: true})
	if err != nil {
		return err
	}
	fmt.Printf("\nLive: moving it to node b while a client writes %d values of 1 KB a second.\n", rate)
	live, err := pod.Move(ctx, trial.Config{To: "b", Rate: rate, OnEvent: follow()})
	if err != nil {
		return err
	}
	timeline(live)
	fmt.Printf("\nCold, for comparison: back to node a by stop-and-copy, under the same load.\n")
	cold, err := pod.Move(ctx, trial.Config{To: "a", Cold: true, Rate: rate, OnEvent: follow()})
	if err != nil {
		return err
	}
	timeline(cold)
	table(live, cold)
	if err := write(out, live, cold); err != nil {
		return err
	}
	fmt.Printf("\nThe figures are in %s.\n", out)
	if live.Damaged() || cold.Damaged() {
		return errLost
	}
	return nil
}
