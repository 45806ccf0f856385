package trial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/load"
)

// Break says when a migration is broken off: so long after the first event of a kind.
type Break struct {
	Kind  string
	After time.Duration
}

func (b Break) String() string { return fmt.Sprintf("%v after %q", b.After, b.Kind) }

// Broken is what came of one migration that was to be broken off.
type Broken struct {
	Break
	// Moved says that it came too late: the pod has moved.
	Moved bool
	// Gap is the longest time between two acknowledged writes meanwhile.
	Gap load.Gap
}

// afterBreak is how long the writer goes on after a migration has ended.
const afterBreak = 200 * time.Millisecond

// BreakOff begins to move the pod again and again, to the node that it is not on, and breaks each migration off, while rate
// writes a second go on without a pause. next says when, until it says no more; told hears what came of each. All is verified
// at the end.
func (p *Pod) BreakOff(ctx context.Context, other func(*Pod) string, rate int, next func() (Break, bool), told func(Broken)) (load.Verdict, error) {
	p.redis.OnlyAt(p.at(RedisPort))
	writing, stop := context.WithCancel(ctx)
	var writer sync.WaitGroup
	writer.Go(func() { p.redis.Write(writing, rate) })
	defer writer.Wait()
	defer stop()
	if err := p.redis.AwaitAcked(ctx, p.redis.Acked()+1); err != nil {
		return load.Verdict{}, err
	}
	for {
		at, more := next()
		if !more {
			break
		}
		b, err := p.breakOff(ctx, other(p), at)
		if err != nil {
			return load.Verdict{}, fmt.Errorf("broken off %v: %w", at, err)
		}
		told(b)
	}
	stop()
	writer.Wait()
	return p.redis.Verify(ctx)
}

// breakOff is one of them.
func (p *Pod) breakOff(ctx context.Context, to string, at Break) (Broken, error) {
	b := Broken{Break: at}
	began := time.Now()
	m, err := move.Start(ctx, p.node, p.name, to)
	if err != nil {
		return b, err
	}
	var interrupt *time.Timer
	_, err = m.AwaitFunc(ctx, func(e move.Event) bool {
		if e.Destination != nil && e.Destination.PodIP != "" {
			p.redis.AlsoAt(net.JoinHostPort(e.Destination.PodIP, RedisPort))
		}
		if e.Kind == at.Kind && interrupt == nil {
			interrupt = time.AfterFunc(at.After, func() { _ = m.Interrupt() }) // it may have ended
		}
		return e.Kind == "ended"
	})
	if interrupt != nil {
		interrupt.Stop()
	}
	_, failed := m.Wait(ctx)
	if failed != nil && !errors.Is(failed, move.ErrFailed) {
		return b, errors.Join(failed, err)
	}
	if b.Moved = failed == nil; b.Moved {
		p.node = p.lab.Node(to)
		if p.pod, err = p.node.FindPod(ctx, p.name); err != nil {
			return b, err
		}
	}
	if err := p.redis.AwaitAcked(ctx, p.redis.Acked()+1); err != nil {
		return b, err
	}
	p.redis.OnlyAt(p.at(RedisPort))
	pause(ctx, afterBreak)
	b.Gap = p.redis.LongestGap(began)
	return b, ctx.Err()
}
