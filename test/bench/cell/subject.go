package cell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"godwit.dev/godwit/test/bench/matrix"
	"godwit.dev/godwit/test/byhand"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
)

// subject is what is moved between nodes a and b: a pod, or a container by hand.
type subject interface {
	// by is who moves it.
	by() matrix.By
	// node is where it is, and address where it answers.
	node() *lab.Node
	address() string
	// move moves it to the other node and tells when; appears hears of further addresses at which it may answer. Asked is the caller's.
	move(ctx context.Context, mode matrix.Mode, appears func(address string)) (moved, error)
	remove(context.Context) error
}

// moved is what one move tells of itself.
type moved struct {
	matrix.Moments
	result *move.Result // nil of a move by hand
}

// start runs a program on node a.
func start(ctx context.Context, l *lab.Lab, p program, by matrix.By) (subject, error) {
	image, err := p.image(ctx, l)
	if err != nil {
		return nil, err
	}
	if by == matrix.Godwit {
		c := lab.ContainerSpec{Name: p.name, Image: image, Command: p.args, UID: &p.user}
		made, err := l.Node("a").RunPod(ctx, lab.PodSpec{Name: p.name, Containers: []lab.ContainerSpec{c}})
		if err != nil {
			return nil, err
		}
		return &pod{lab: l, at: l.Node("a"), pod: made, port: p.port}, nil
	}
	c, err := byhand.Start(ctx, l.Node("a"), l.Node("b"), byhand.Spec{Image: image, Args: p.args, User: uint32(p.user), Files: p.files})
	if err != nil {
		return nil, err
	}
	return &container{Container: c, who: by, port: p.port}, nil
}

// pod is moved by godwit.
type pod struct {
	lab  *lab.Lab
	at   *lab.Node
	pod  *lab.Pod
	port string
}

func (p *pod) by() matrix.By   { return matrix.Godwit }
func (p *pod) node() *lab.Node { return p.at }
func (p *pod) address() string { return net.JoinHostPort(p.pod.IP, p.port) }

func (p *pod) remove(ctx context.Context) error { return p.at.RemovePod(ctx, p.pod.ID) }

func (p *pod) move(ctx context.Context, mode matrix.Mode, appears func(string)) (moved, error) {
	var m moved
	to := p.lab.Node("a")
	if p.at.Name == "a" {
		to = p.lab.Node("b")
	}
	migration, err := move.Start(ctx, p.at, p.pod.Name, to.Name, mode.Flags...)
	if err != nil {
		return m, err
	}
	known := false
	_, err = migration.AwaitFunc(ctx, func(e move.Event) bool {
		if e.Destination != nil && e.Destination.PodIP != "" && !known {
			known = true
			appears(net.JoinHostPort(e.Destination.PodIP, p.port))
		}
		return e.Kind == "ended"
	})
	result, failed := migration.Wait(ctx)
	if err := errors.Join(failed, err); err != nil {
		return m, err
	}
	m.Ended, m.result = time.Now(), result
	frozen, ok := migration.Event("freezing")
	runs, ok2 := migration.Event("committed")
	if !ok || !ok2 {
		return m, fmt.Errorf("the migration told neither when the pod was frozen nor when it was committed: %v", migration.Kinds())
	}
	m.Frozen, m.Runs = frozen.Time, runs.Time
	p.at = to
	p.pod, err = to.FindPod(ctx, p.pod.Name)
	return m, err
}

// container is moved by hand. It has the address of its node.
type container struct {
	*byhand.Container
	who  matrix.By
	port string
}

func (c *container) by() matrix.By   { return c.who }
func (c *container) node() *lab.Node { return c.Node() }
func (c *container) address() string { return net.JoinHostPort(c.Addr().String(), c.port) }

func (c *container) remove(ctx context.Context) error { return c.Remove(ctx) }

func (c *container) move(ctx context.Context, mode matrix.Mode, appears func(string)) (moved, error) {
	m := moved{Moments: matrix.Moments{Frozen: time.Now()}}
	appears(net.JoinHostPort(c.Next().String(), c.port))
	runs := func() { m.Runs = time.Now() }
	var err error
	if mode.By == matrix.CRIULazy {
		err = c.FinishLazily(ctx, runs)
	} else {
		err = c.Finish(ctx, 0, runs)
	}
	m.Ended = time.Now()
	return m, err
}
