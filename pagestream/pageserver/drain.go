package pageserver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagehash"
)

// drain hands filled chunks to the streams, one worker for each.
type drain struct {
	pool   *pool
	tables func(pagestream.Space) *pagehash.Table
	ctx    context.Context
	fail   context.CancelCauseFunc // ends ctx and with it the conversation
	queue  chan *chunk             // has room for every chunk there is
	wg     sync.WaitGroup

	sent, unchanged atomic.Uint64 // pages
}

func newDrain(ctx context.Context, p *pool, out []Pages, tables func(pagestream.Space) *pagehash.Table, fail context.CancelCauseFunc) *drain {
	d := &drain{ctx: ctx, pool: p, tables: tables, fail: fail, queue: make(chan *chunk, len(p.memory)/ChunkBytes)}
	for _, o := range out {
		d.wg.Go(func() { d.work(o) })
	}
	return d
}

// work is one worker. Once the conversation has failed it only takes chunks
// back.
func (d *drain) work(out Pages) {
	runs := make([]pagestream.Range, 0, MaxRuns)
	for c := range d.queue {
		if d.ctx.Err() == nil {
			if err := d.carry(out, c, runs); err != nil {
				d.fail(err)
			}
		}
		d.pool.put(c)
	}
}

// carry hands one chunk over; runs is memory for what is left of it.
func (d *drain) carry(out Pages, c *chunk, runs []pagestream.Range) error {
	left, data := c.runs, c.data
	if c.space.Kind == pagestream.Shared {
		if t := d.tables(c.space); t != nil {
			left, data = t.Last(c.runs, c.data, runs)
		}
	}
	d.unchanged.Add(uint64(len(c.data)-len(data)) / pagestream.PageSize)
	d.sent.Add(uint64(len(data)) / pagestream.PageSize)
	if len(data) == 0 {
		return nil
	}
	if err := out.Runs(c.space, left, data); err != nil {
		return fmt.Errorf("send pages of space %s: %w", c.space, err)
	}
	return nil
}

// close lets the workers finish what is queued, and waits for them.
func (d *drain) close() {
	close(d.queue)
	d.wg.Wait()
}
