package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

const (
	// crowdSize is how many pods move at once, each with so much memory and so many
	// writes a second.
	crowdSize   = 11
	crowdMemory = 64 << 20
	crowdRate   = 100
	// alone is how many moves of one pod alone they are compared with; the median counts.
	alone = 3
	// gigabit is the link's rate, bits a second.
	gigabit = 1_000_000_000
)

// crowd is what moving many pods at once gave.
type crowd struct {
	way
	one, together []time.Duration // downtimes of one alone, and of each of all at once
}

// way is a configuration of the nodes for it.
type way struct {
	name, config string
	// promised: nodes are like that unless somebody has them otherwise, and the promise
	// is of them. The others show what it takes.
	promised bool
}

// crowdShare is the most that is promised of the share of a crowd.
const crowdShare = 3

// share is the worst of all together, as a multiple of one alone.
func (c crowd) share() float64 {
	return slices.Max(c.together).Seconds() / median(c.one).Seconds()
}

// eleven moves eleven pods at the same time over 1 Gbit/s: as many at a time as a node
// lets leave by default, the others queued, and all of them side by side.
func (b *bench) eleven(ctx context.Context) error {
	for _, w := range []way{
		{name: "queued", promised: true},
		{name: "side by side", config: "moves = -1\n"},
		{name: "side by side, with a limit of the node", config: "moves = -1\nbandwidth_limit = \"900mbit\"\n"},
	} {
		c, err := b.crowd(ctx, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		b.crowds = append(b.crowds, c)
		if err := lab.Down(ctx, labDir); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) crowd(ctx context.Context, w way) (crowd, error) {
	c := crowd{way: w}
	l, err := lab.Up(ctx, lab.Options{Dir: labDir, Shape: lab.Shape{Rate: gigabit}})
	if err != nil {
		return c, err
	}
	defer l.Close()
	for _, node := range []string{"a", "b"} {
		if err := configure(ctx, l.Node(node), fmt.Sprintf("max_incoming = %d\n%s", crowdSize, w.config)); err != nil {
			return c, err
		}
	}
	fmt.Printf("eleven pods, %s: filling them\n", w.name)
	pods := make([]*trial.Pod, crowdSize)
	for i := range pods {
		if pods[i], err = trial.Start(ctx, l, trial.Spec{Name: fmt.Sprint("crowd-", i), Node: "a", Memory: crowdMemory}); err != nil {
			return c, err
		}
	}
	for range alone {
		r, err := b.move(ctx, pods[0], trial.Config{Rate: crowdRate})
		if err != nil {
			return c, err
		}
		c.one = append(c.one, r.Gap.Length())
	}
	// All of them set out from the same node.
	if pods[0].Node().Name != "a" {
		if _, err := b.move(ctx, pods[0], trial.Config{Rate: crowdRate}); err != nil {
			return c, err
		}
	}
	c.together, err = b.together(ctx, pods)
	if err == nil {
		fmt.Printf("  %s: worst downtime %.1f ms of %v, one alone %.1f ms: %.2f times\n", w.name, ms(slices.Max(c.together)), c.together, ms(median(c.one)), c.share())
	}
	return c, err
}

// together moves pods at the same time and returns their downtimes.
func (b *bench) together(ctx context.Context, pods []*trial.Pod) ([]time.Duration, error) {
	results := make([]*trial.Result, len(pods))
	group, gctx := errgroup.WithContext(ctx)
	began := time.Now()
	for i, p := range pods {
		group.Go(func() (err error) {
			results[i], err = p.Move(gctx, trial.Config{To: "b", Rate: crowdRate})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	fmt.Printf("  all eleven took %v\n", time.Since(began).Round(time.Millisecond))
	var downtimes []time.Duration
	for i, r := range results {
		fmt.Printf("  %2d: downtime %6.1f ms, %d rounds, %+v\n", i, ms(r.Gap.Length()), len(r.Rounds), r.Downtime)
		downtimes = append(downtimes, r.Gap.Length())
		if err := b.note(r); err != nil {
			return nil, err
		}
	}
	return downtimes, nil
}

// configure puts lines before a node's configuration and has its daemon begin anew.
func configure(ctx context.Context, n *lab.Node, lines string) error {
	path := n.Path("/etc/godwit/node.toml")
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration of node %s: %w", n.Name, err)
	}
	if err := os.WriteFile(path, append([]byte(lines), old...), 0o600); err != nil {
		return fmt.Errorf("configuration of node %s: %w", n.Name, err)
	}
	if !n.KillDaemon() {
		return fmt.Errorf("node %s: its daemon does not run", n.Name)
	}
	for {
		if _, err = n.Exec(ctx, "godwitctl", "pods"); err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}
