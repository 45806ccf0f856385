package nodecontroller

import (
	"context"
	"sync"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// kindProgress is the kind of event of which only the last one counts.
const kindProgress = "progress"

// feed is what happened in one migration. A subscriber gets every step from the
// start, and of the progress between them what is newest when it asks.
type feed struct {
	mu       sync.Mutex
	steps    []*nodev1.Event // all events but progress, guarded by mu
	progress *nodev1.Event   // the newest since the last step, guarded by mu
	count    uint64          // of progress events so far, guarded by mu
	over     bool            // guarded by mu
	changed  chan struct{}   // closed and replaced at each change, guarded by mu
}

func newFeed() *feed { return &feed{changed: make(chan struct{})} }

// publish adds an event, which must not be changed any more.
func (f *feed) publish(e *nodev1.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	if e.Kind == kindProgress {
		f.progress = e
		f.count++
	} else {
		f.steps = append(f.steps, e)
		f.progress = nil
	}
	f.wake()
}

// end lets all subscribers come to an end.
func (f *feed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	f.wake()
}

// wake is called with mu held.
func (f *feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// each calls send for every event, from the first to the last, and returns when
// the migration has ended, send fails, or ctx is over.
func (f *feed) each(ctx context.Context, send func(*nodev1.Event) error) error {
	var steps int
	var count uint64
	for {
		f.mu.Lock()
		pending := f.steps[steps:len(f.steps):len(f.steps)]
		progress, newCount, over, changed := f.progress, f.count, f.over, f.changed
		f.mu.Unlock()

		steps += len(pending)
		for _, e := range pending {
			if err := send(e); err != nil {
				return err
			}
		}
		if progress != nil && newCount != count {
			count = newCount
			if err := send(progress); err != nil {
				return err
			}
		}
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
