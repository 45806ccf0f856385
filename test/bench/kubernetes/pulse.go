package main

import (
	"sync"
	"time"
)

// pulse notices when the bench itself does not run, and with it its clients: what they then see is not the pods' doing.
type pulse struct {
	end     chan struct{}
	once    sync.Once
	done    sync.WaitGroup
	longest time.Duration // read when done
}

// beat is how often the bench looks whether it runs.
const beat = 5 * time.Millisecond

func startPulse() *pulse {
	p := &pulse{end: make(chan struct{})}
	p.done.Go(func() {
		tick := time.NewTicker(beat)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-tick.C:
			case <-p.end:
				return
			}
			now := time.Now()
			p.longest = max(p.longest, now.Sub(last)-beat)
			last = now
		}
	})
	return p
}

// stop returns how long the bench stood still at most.
func (p *pulse) stop() time.Duration {
	p.once.Do(func() { close(p.end) })
	p.done.Wait()
	return p.longest
}
