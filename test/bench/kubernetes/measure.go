package main

import (
	"context"
	"fmt"
	"time"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

// What the bench moves.
const (
	memory = 1 << 30
	// rate is the client's writes a second.
	rate = 5000

	tenMemory = 64 << 20
	tenPods   = 10
	// tenRate is that of each: together they are written to as the one is.
	tenRate = rate / tenPods
	// waves is how often the ten move.
	waves = 2
)

// bench collects figures.
type bench struct {
	cluster *cluster
	repeat  int

	kube, plain []moved // of one pod, by PodMigrations and without Kubernetes
	alone       []moved // of one of the ten
	together    []moved // of all ten
	before      usage   // of a daemon, with no PodMigration in the cluster
	after       usage   // the same with many that are over
}

// compare moves a pod of the cluster and one of nodes without Kubernetes, in turns.
func (b *bench) compare(ctx context.Context) error {
	l, err := lab.Up(ctx, lab.Options{Dir: plainDir})
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Printf("  filling two redis with %d MiB\n", memory>>20)
	plain, err := trial.Start(ctx, l, trial.Spec{Node: "a", Memory: memory})
	if err != nil {
		return err
	}
	p, err := b.cluster.startPod(ctx, "one", "a", memory)
	if err != nil {
		return err
	}
	for range b.repeat {
		m, err := movePlain(ctx, plain)
		if err != nil {
			return err
		}
		b.plain = append(b.plain, m)
		all, err := moveAll(ctx, []*pod{p}, rate)
		if err != nil {
			return err
		}
		b.kube = append(b.kube, all...)
	}
	if err := p.remove(ctx); err != nil {
		return err
	}
	return lab.Down(ctx, plainDir)
}

// movePlain moves a pod by godwitctl.
func movePlain(ctx context.Context, p *trial.Pod) (moved, error) {
	r, err := p.Move(ctx, trial.Config{To: other(p.Node().Name), Rate: rate})
	if err != nil {
		return moved{}, err
	}
	if r.Damaged() {
		return moved{}, fmt.Errorf("%w: %d writes lost, %d values wrong", errDamaged, r.Lost, r.Wrong)
	}
	m := moved{
		gap:      r.Gap.Length(),
		downtime: time.Duration(r.DowntimeMS * float64(time.Millisecond)),
		total:    r.Events[len(r.Events)-1].Seen.Sub(r.Began),
		before:   r.Before,
		after:    r.After,
		worst:    r.Worst.Length(),
	}
	if r.Downtime != nil {
		m.parts = *r.Downtime
	}
	m.print("godwitctl", p.Node().Name)
	return m, nil
}

// ten moves one pod alone, and then ten at the same time.
func (b *bench) ten(ctx context.Context) error {
	var pods []*pod
	add := func() error {
		node := "a"
		if len(pods) > 0 {
			node = pods[0].node
		}
		p, err := b.cluster.startPod(ctx, fmt.Sprintf("ten-%d", len(pods)), node, tenMemory)
		pods = append(pods, p)
		return err
	}
	if err := add(); err != nil {
		return err
	}
	for range b.repeat {
		m, err := moveAll(ctx, pods, tenRate)
		if err != nil {
			return err
		}
		b.alone = append(b.alone, m...)
	}
	for len(pods) < tenPods {
		if err := add(); err != nil {
			return err
		}
	}
	for range waves {
		m, err := moveAll(ctx, pods, tenRate)
		if err != nil {
			return err
		}
		b.together = append(b.together, m...)
	}
	for _, p := range pods {
		if err := p.remove(ctx); err != nil {
			return err
		}
	}
	return nil
}
