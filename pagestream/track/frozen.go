package track

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// frozenPiece is how much of an address space one processor scans at a time
// while everything is frozen, in bytes of lazy areas.
const frozenPiece = 512 << 20

// frozen is one process in a CollectFrozen.
type frozen struct {
	*process
	pm     *pagemap.File
	areas  areas
	shares bool
	pieces []frozenPart
	err    error
}

// frozenPart is a part of a process to scan, and what was found there.
type frozenPart struct {
	of        *frozen
	over      span
	present   []pagestream.Range
	guards    []pagestream.Range
	dirty     []pagestream.Range
	untracked uint64
	err       error
}

// CollectFrozen does the last round, of processes that are frozen. Nothing is
// injected, registered or protected: it reports what was written since the last
// round, and all pages of whatever is not under write-protection, up to whole
// processes that were never armed. It also reports which pages there are. It works on GOMAXPROCS processors. If the
// processes are thawed afterwards, Collect goes on from the round before it: it
// reports what this one reported again.
//
// An error means that pages may be missing: the round must not be used.
func (t *Tracker) CollectFrozen(ctx context.Context) (Round, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	begin := time.Now()
	var r Round
	procs, err := t.begin(&r)
	if err != nil {
		return Round{}, err
	}
	all := make([]frozen, len(procs))
	defer func() {
		for i := range all {
			all[i].close()
		}
	}()
	t.inParallel(len(all), func(i int, s *scratch) {
		all[i].process = procs[i]
		all[i].prepare(s)
	})
	var parts []*frozenPart
	for i := range all {
		for j := range all[i].pieces {
			parts = append(parts, &all[i].pieces[j])
		}
	}
	t.inParallel(len(parts), func(i int, s *scratch) {
		if ctx.Err() == nil {
			parts[i].scan(s)
		}
	})
	if err := ctx.Err(); err != nil {
		return Round{}, fmt.Errorf("last round of dirty pages: %w", err)
	}
	for i := range all {
		pr, err := all[i].round()
		if errors.Is(err, ErrGone) {
			r.Gone = append(r.Gone, pr.Space)
			continue
		}
		if err != nil {
			return Round{}, fmt.Errorf("last round of dirty pages: process %d: %w", pr.PID, err)
		}
		r.Processes = append(r.Processes, pr)
	}
	t.settle(&r)
	r.Took = time.Since(begin)
	return r, nil
}

// prepare reads the areas of the process and decides how to scan them.
func (f *frozen) prepare(s *scratch) {
	if q := f.process.shares; q != nil && q.uffd != closedDescriptor && sameMemory(f.PID, q.PID) {
		f.shares = true
		return
	}
	if f.pm, f.err = s.open(f.PID); f.err != nil {
		return
	}
	f.areas.set(s.vmas)
	for _, over := range f.areas.cut(frozenPiece) {
		f.pieces = append(f.pieces, frozenPart{of: f, over: over})
	}
}

func (f *frozen) close() {
	if f.pm != nil {
		f.pm.Close()
	}
}

// frozenQuery finds all pages but those that are there and, of memory that is armed, as they were at the
// last round. Nearly all are, and a page that is found takes the kernel longer than one that is not. So one
// walk tells which pages there are and which were written.
//
// What is not under write-protection is found whole, protected or not, as pages that a kernel before 6.13
// has moved out of a registered area may still be.
func frozenQuery(armed bool) pagemap.Query {
	q := pagemap.AbsentQuery()
	if armed {
		q.Inverted |= pagemap.WPAllowed
		q.AnyOf |= pagemap.WPAllowed | pagemap.Written
		q.Return |= pagemap.WPAllowed | pagemap.Written
	}
	return q
}

// scan scans one part. What is under our protection tells what was written; of
// all else every page is dirty.
func (part *frozenPart) scan(s *scratch) {
	f := part.of
	armed := f.uffd != closedDescriptor && !f.void
	q := frozenQuery(armed)
	q.Start, q.End = part.over.start, part.over.end
	var absent, dirty []pagestream.Range
	note := func(_ int, r pagemap.Region) {
		pages := pagestream.Range{Start: r.Start, Pages: r.Pages()}
		switch c := r.Categories; {
		case c.Absent():
			absent = appendRange(absent, pages)
			if c&pagemap.Guard != 0 {
				part.guards = appendRange(part.guards, pages)
			}
		case !armed:
		case c&pagemap.WPAllowed == 0:
			part.untracked += pages.Pages
			dirty = appendRange(dirty, pages)
		case c&pagemap.Written != 0:
			dirty = appendRange(dirty, pages)
		}
	}
	err := f.pm.Walk(q, s.regions, func(found []pagemap.Region) { f.areas.within(found, note) })
	if err != nil {
		part.err = otherMemory(err)
		return
	}
	part.present = pagestream.Subtract(f.areas.clip([]pagestream.Range{part.over.pages()}), absent)
	if !armed {
		part.dirty, part.untracked = part.present, pagesOf(part.present)
		return
	}
	part.dirty = pagestream.Union(dirty, pagestream.Intersect(part.present, f.deferred))
}

// round puts the parts together, and adds what a device may have written since
// the last round copied it.
func (f *frozen) round() (ProcessRound, error) {
	pr := ProcessRound{Process: f.Process}
	if f.shares {
		pr.Shares = f.process.shares.Space
		return pr, nil
	}
	if f.err != nil {
		return pr, f.err
	}
	for i := range f.pieces {
		part := &f.pieces[i]
		if part.err != nil {
			return pr, part.err
		}
		pr.Untracked += part.untracked
		pr.Dirty = pagestream.Union(pr.Dirty, part.dirty)
		for _, r := range part.present {
			pr.Present = pagestream.AppendRun(pr.Present, r)
		}
		for _, r := range part.guards {
			pr.Guards = pagestream.AppendRun(pr.Guards, r)
		}
	}
	pr.Looked = f.areas.clip([]pagestream.Range{f.areas.bounds().pages()})
	if f.uffd != closedDescriptor {
		pr.Dirty = pagestream.Union(pr.Dirty, f.areas.clip(f.suspects))
	}
	pr.Pages = pagesOf(pr.Dirty)
	return pr, nil
}

// inParallel calls work for 0..n-1 on GOMAXPROCS processors, each with scratch
// memory of its own.
func (t *Tracker) inParallel(n int, work func(i int, s *scratch)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		s := t.takeScratch()
		defer t.giveScratch(s)
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i, s)
			}
		})
	}
	wg.Wait()
}
