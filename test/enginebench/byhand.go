package main

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"godwit.dev/godwit/test/byhand"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/trial"
)

// handRedis is a redis that an operator moves by hand.
type handRedis struct {
	*byhand.Container
	redis *load.Store
}

// startByHand runs and fills it.
func startByHand(ctx context.Context, l *lab.Lab, memory int64) (*handRedis, error) {
	image, err := trial.RedisImage(ctx, l)
	if err != nil {
		return nil, err
	}
	c, err := byhand.Start(ctx, l.Node("a"), l.Node("b"), byhand.Spec{Image: image, Args: trial.RedisCommand})
	if err != nil {
		return nil, err
	}
	h := &handRedis{c, load.NewRedis(at(c.Addr()), trial.Keys(memory))}
	return h, h.redis.Fill(ctx)
}

func at(node netip.Addr) string { return net.JoinHostPort(node.String(), trial.RedisPort) }

// handMove is what a move by hand came to.
type handMove struct {
	Gap   load.Gap
	Stood time.Duration // in the rounds, by the client's clock
	load.Verdict
}

// move moves it to the other node under load: rounds pre-dumps, each copied before the next one begins, then what it stands still for.
func (h *handRedis) move(ctx context.Context, rounds, rate int) (handMove, error) {
	var m handMove
	writing, stop := context.WithCancel(ctx)
	var writer sync.WaitGroup
	defer writer.Wait()
	defer stop()
	h.redis.OnlyAt(at(h.Addr()))
	h.redis.AlsoAt(at(h.Next()))
	before := h.redis.Acked()
	writer.Go(func() { h.redis.Write(writing, rate) })
	if err := h.redis.AwaitAcked(ctx, before+1); err != nil {
		return m, err
	}
	pause(ctx, trial.Settle)

	began := time.Now()
	for i := range rounds {
		if err := h.PreDump(ctx, i); err != nil {
			return m, err
		}
	}
	final := time.Now()
	var restored time.Time
	if err := h.Finish(ctx, rounds, func() { restored = time.Now() }); err != nil {
		return m, err
	}
	if err := h.redis.AwaitAcked(ctx, h.redis.Acked()+1); err != nil {
		return m, err
	}
	pause(ctx, trial.Settle)
	stop()
	writer.Wait()
	m.Gap = h.redis.LongestGapWithin(final, restored)
	m.Stood = h.redis.StoodWithin(began, final, trial.Noticeable)
	h.redis.OnlyAt(at(h.Addr()))
	var err error
	m.Verdict, err = h.redis.Verify(ctx)
	return m, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
