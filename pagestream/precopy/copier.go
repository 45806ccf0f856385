package precopy

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"godwit.dev/godwit/pagestream"
)

// Stream takes pages to the destination. Only one worker uses a stream.
type Stream interface {
	// Runs sends the pages of runs, which ascend and do not overlap; data is
	// their content, one after the other, and is free for reuse on return.
	Runs(space pagestream.Space, runs []pagestream.Range, data []byte) error
}

// Session is what a copy needs of the connection to the destination.
type Session interface {
	// Streams is the number of parallel streams, at least 1.
	Streams() int
	// Stream is stream i of 0..Streams()-1.
	Stream(i int) Stream
	// Flush returns when everything handed to any stream before the call is
	// stored at the destination.
	Flush(ctx context.Context) error
}

// Memory names pages to copy of one process.
type Memory struct {
	PID    int // as this process sees it
	Space  pagestream.Space
	Ranges []pagestream.Range
}

// CopyStats says what one copy did. Counts are pages.
type CopyStats struct {
	Sent      uint64 // handed to the streams
	Deltas    uint64 // of those sent, as what changed in them
	Unchanged uint64 // the destination has them already
	Skipped   uint64 // could not be read: unmapped since they were found
	Gone      uint64 // of processes that had ended
	// DeltaBytes is what these deltas took.
	DeltaBytes uint64
	// FirstSkipped is a skipped page, for messages; only if Skipped > 0.
	FirstSkipped SkippedPage
}

// SkippedPage names a page that could not be read.
type SkippedPage struct {
	Space   pagestream.Space
	Address uint64
}

// String writes the page as space and address.
func (p SkippedPage) String() string {
	return fmt.Sprintf("page %#x of space %s", p.Address, p.Space)
}

// ErrCopierClosed is returned by a copy that a Close overtook.
var ErrCopierClosed = errors.New("copier is closed")

// Copier reads pages and hands them to the streams of a session: one worker
// for each stream, each on a thread of its own with one buffer that is used
// again for every chunk. Its memory is Streams() * chunkBytes and does not
// depend on what is copied. Copies may run at the same time; each chunk is
// taken from the oldest one that has any left.
type Copier struct {
	session Session
	wg      sync.WaitGroup
	pages   atomic.Uint64 // handled by all copies so far, for progress

	mu     sync.Mutex // guards tasks, closed and the cursors of the tasks
	wake   *sync.Cond // on mu: a task was added, or closed was set
	tasks  []*task
	closed bool
}

// NewCopier starts the workers. They end with Close.
func NewCopier(session Session) *Copier {
	c := &Copier{session: session}
	c.wake = sync.NewCond(&c.mu)
	for i := range session.Streams() {
		c.wg.Go(func() { c.work(session.Stream(i)) })
	}
	return c
}

// Close ends the workers and waits for them. A worker that is inside a
// stream's Runs is waited for: close the session first to cut it short.
// Copies under way return ErrCopierClosed.
func (c *Copier) Close() {
	c.mu.Lock()
	c.closed = true
	for _, t := range slices.Clone(c.tasks) {
		t.fail(ErrCopierClosed)
		c.retire(t)
	}
	c.wake.Broadcast()
	c.mu.Unlock()
	c.wg.Wait()
}

// Copy reads the pages of memories and hands each to a stream once. It returns
// when all are handed over; Session.Flush tells when they are stored. Pages
// that are no longer mapped and processes that have ended are passed over and
// counted: if their memory is there again later, its tracker finds it dirty.
//
// When ctx ends Copy returns at once, though a worker may still be inside a
// stream. Which pages were sent is unknown then, as it is after any error.
func (c *Copier) Copy(ctx context.Context, memories []Memory, pace Pace) (CopyStats, error) {
	return c.copy(ctx, processAreas(memories), pace)
}

// Copied is the number of pages that all copies have dealt with so far.
func (c *Copier) Copied() uint64 { return c.pages.Load() }

// copy copies areas as Copy does.
func (c *Copier) copy(ctx context.Context, areas []*area, pace Pace) (CopyStats, error) {
	t := newTask(areas, c.session.Streams(), pace)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return CopyStats{}, fmt.Errorf("copy pages: %w", ErrCopierClosed)
	}
	c.tasks = append(c.tasks, t)
	c.retire(t) // it may hold no page at all
	c.wake.Broadcast()
	c.mu.Unlock()

	select {
	case <-t.done:
	case <-ctx.Done():
		c.mu.Lock()
		t.fail(context.Cause(ctx))
		c.retire(t)
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.err != nil {
		return t.stats, fmt.Errorf("copy pages: %w", t.err)
	}
	return t.stats, nil
}

// work is one worker: it takes chunks until the copier is closed.
func (c *Copier) work(stream Stream) {
	// A locked thread ends with its goroutine, and so does its pace, unless it
	// is the process' first one.
	runtime.LockOSThread()
	w := newWorker(stream)
	defer w.setPace(Urgent)
	for t := c.take(w); t != nil; t = c.take(w) {
		w.setPace(t.pace)
		got, err := w.carry()
		c.settle(t, w, got, err)
	}
}

// take waits for a chunk, which it puts into w. Nil means that the copier is
// closed.
func (c *Copier) take(w *worker) *task {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.closed {
			return nil
		}
		for _, t := range c.tasks {
			if a, runs := t.next(w.runs[:0]); a != nil {
				w.area, w.runs = a, runs
				t.inFlight++
				return t
			}
		}
		c.wake.Wait()
	}
}

// settle books a carried chunk.
func (c *Copier) settle(t *task, w *worker, got CopyStats, err error) {
	c.pages.Add(w.pages)
	t.handled.Add(w.pages)
	c.mu.Lock()
	defer c.mu.Unlock()
	t.inFlight--
	t.stats.add(got)
	if err != nil {
		t.fail(err)
	}
	c.retire(t)
}

// retire removes a task of which nothing is left to do. Callers hold c.mu.
func (c *Copier) retire(t *task) {
	t.skipEmpty() // what is left may be of a process that has ended over its last chunk
	if !t.exhausted() || (t.inFlight > 0 && t.err == nil) {
		return
	}
	for i, u := range c.tasks {
		if u == t {
			c.tasks = append(c.tasks[:i], c.tasks[i+1:]...)
			close(t.done)
			return
		}
	}
}

func (s *CopyStats) add(o CopyStats) {
	if s.Skipped == 0 {
		s.FirstSkipped = o.FirstSkipped
	}
	s.Sent += o.Sent
	s.Deltas += o.Deltas
	s.DeltaBytes += o.DeltaBytes
	s.Unchanged += o.Unchanged
	s.Skipped += o.Skipped
	s.Gone += o.Gone
}
