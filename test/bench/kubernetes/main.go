// Command kubernetes measures what Godwit promises of a cluster, all of it in one run on the lab's Kubernetes, and fails if a
// promise is not kept: what moving a pod by a PodMigration costs beside moving it without Kubernetes, pods that move at the
// same time, and what the node daemon takes while nothing moves. `make bench-kubernetes` runs it.
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

// The bench's own labs: the cluster, and beside it nodes without Kubernetes. They are up at the same time, and turns
// alternate, so that both have the same of whatever else the machine does.
var (
	clusterDir = claim.Dir() + "-kubernetes"
	plainDir   = claim.Dir() + "-plain"
)

// cleanLimit is how long cleaning up may take, also after Ctrl-C.
const cleanLimit = 2 * time.Minute

func main() {
	out := flag.String("out", "out/bench-kubernetes.json", "file for the figures")
	repeat := flag.Int("repeat", 5, "moves of one pod of each kind; the median counts")
	only := flag.String("only", "", "run only these steps, by name, with commas: "+steps.Names(all))
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *repeat, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// all are the steps. They have the same cluster, and leave no pod in it.
var all = []steps.Step[*bench]{
	{Name: "move", Run: (*bench).compare},
	{Name: "ten", Run: (*bench).ten},
	{Name: "idle", Run: (*bench).idle},
}

func run(ctx context.Context, out string, repeat int, only string) (err error) {
	chosen, err := steps.Choose(all, only)
	if err != nil {
		return err
	}
	if repeat < 1 {
		return errors.New("nothing could be judged: use one move at least")
	}
	release, err := claim.Take(clusterDir)
	if err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		err = errors.Join(err, lab.Down(clean, plainDir), lab.Down(clean, clusterDir), release())
	}()
	// What a bench that was killed has left.
	if err := errors.Join(lab.Down(ctx, plainDir), lab.Down(ctx, clusterDir)); err != nil {
		return err
	}
	leave, err := lab.BeClient()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	c, err := startCluster(ctx)
	if err != nil {
		return err
	}
	defer c.lab.Close()
	b := &bench{cluster: c, repeat: repeat}
	for _, s := range chosen {
		fmt.Printf("%s:\n", s.Name)
		if err := s.Run(b, ctx); err != nil {
			return fmt.Errorf("step %s: %w", s.Name, err)
		}
	}
	r := b.report()
	figure.Print(os.Stdout, r.Figures)
	if err := figure.WriteReport(out, r); err != nil {
		return err
	}
	return figure.Judge(r.Figures)
}
