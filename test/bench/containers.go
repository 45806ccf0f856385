package main

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

const (
	// several is how many containers a pod has that is compared with a pod of one.
	several = 5
	// containerMiB is the memory that each of them rewrites, containerRate how much of it a second, MiB.
	containerMiB  = 64
	containerRate = 4
	// containersShare is the most that is promised of their frozen time, as a multiple of that of one.
	containersShare = 2
)

// containers are frozen times, milliseconds.
type containers struct{ one, several []float64 }

// severalContainers measures how long a pod of several containers stands still, beside one of one container, in turns.
func (b *bench) severalContainers(ctx context.Context) error {
	l, err := lab.Up(ctx, lab.Options{Dir: labDir})
	if err != nil {
		return err
	}
	defer l.Close()
	for _, n := range []int{1, several} {
		if err := runRewriters(ctx, l, n); err != nil {
			return err
		}
	}
	c := new(containers)
	from, to := "a", "b"
	for range 2 * b.repeat {
		one, err := moveRewriters(ctx, l, 1, from, to)
		if err != nil {
			return err
		}
		all, err := moveRewriters(ctx, l, several, from, to)
		if err != nil {
			return err
		}
		c.one, c.several = append(c.one, one), append(c.several, all)
		from, to = to, from
	}
	b.containers = c
	return nil
}

// share is the median of several as a multiple of that of one.
func (c *containers) share() float64 { return median(c.several) / median(c.one) }

func rewritersOf(n int) string { return fmt.Sprintf("%s-%d", workload.Rewriter, n) }

func rewriterPort(i int) string { return strconv.Itoa(7000 + i) }

// runRewriters runs a pod of n containers on node a, and returns when each has written all its memory.
func runRewriters(ctx context.Context, l *lab.Lab, n int) error {
	image, err := workload.Image(ctx, l)
	if err != nil {
		return err
	}
	spec := lab.PodSpec{Name: rewritersOf(n)}
	for i := range n {
		spec.Containers = append(spec.Containers, lab.ContainerSpec{
			Name: fmt.Sprintf("%s-%d", workload.Rewriter, i), Image: image,
			Command: []string{"/" + workload.Rewriter, rewriterPort(i), strconv.Itoa(containerMiB), strconv.Itoa(containerRate)},
		})
	}
	p, err := l.Node("a").RunPod(ctx, spec)
	if err != nil {
		return err
	}
	for i := range n {
		if err := (rewriter{net.JoinHostPort(p.IP, rewriterPort(i))}).filled(ctx, containerMiB); err != nil {
			return err
		}
	}
	return nil
}

// moveRewriters moves the pod of n containers and returns how long it was frozen, milliseconds. Each program checks its memory.
func moveRewriters(ctx context.Context, l *lab.Lab, n int, from, to string) (float64, error) {
	r, err := move.Do(ctx, l.Node(from), rewritersOf(n), to)
	if err != nil {
		return 0, err
	}
	fmt.Printf("  %d containers to %s: frozen %.1f ms, total %.1f ms\n", n, to, r.DowntimeMS, r.TotalMS)
	if d := r.Downtime; d != nil {
		fmt.Printf("       %+v\n", *d)
	}
	p, err := l.Node(to).FindPod(ctx, rewritersOf(n))
	if err != nil {
		return 0, err
	}
	for i := range n {
		if _, err := workload.Check(ctx, net.JoinHostPort(p.IP, rewriterPort(i))); err != nil {
			return 0, fmt.Errorf("container %d of %s after its move: %w", i, rewritersOf(n), err)
		}
	}
	return r.DowntimeMS, nil
}
