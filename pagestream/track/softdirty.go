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

// SoftDirtyTracker finds what is left to copy of frozen processes whose rounds were
// CRIU's pre-dumps: they clear the kernel's soft-dirty bits each time, so what has
// its bit set was written since (Documentation/admin-guide/mm/soft-dirty.rst).
//
// What the last pre-dump did not bring to the destination counts as dirty whatever
// its bit says: processes that are younger, areas that a pre-dump in read mode
// passes over because they cannot be read (criu/mem.c, generate_vma_iovs), and
// everything, if there was none.
//
// Writes by devices are told: the kernel does not clear the bit of a page that is
// pinned (pte_is_pinned in fs/proc/task_mmu.c).
type SoftDirtyTracker struct {
	// List lists the processes.
	List func() ([]Process, error)
	// Held returns the pages of a process that the destination has as they were
	// at the last clearing of its soft-dirty bits, ascending; nil if it has none.
	Held func(Process) []pagestream.Range
}

// errCarried is the error of a Collect: it is a mistake of the caller.
var errCarried = errors.New("rounds of running processes are CRIU's with the soft-dirty engine")

// Collect is not for this engine; see precopy.Carrier.
func (t *SoftDirtyTracker) Collect(context.Context) (Round, error) { return Round{}, errCarried }

// softPiece is how much of an address space one processor reads at a time, in bytes of
// lazy areas.
const softPiece = 128 << 20

// softProcess is one process in a collection.
type softProcess struct {
	Process
	pm    *pagemap.File
	areas areas
	held  []pagestream.Range
	parts []softPart
	err   error
}

// softPart is a part of a process to read, and what was found there.
type softPart struct {
	of    *softProcess
	over  span
	dirty []pagestream.Range
	err   error
}

// CollectFrozen returns what of the frozen processes' lazy areas was written since
// the last pre-dump, or was not in it. It works on GOMAXPROCS processors.
func (t *SoftDirtyTracker) CollectFrozen(ctx context.Context) (Round, error) {
	begin := time.Now()
	listed, err := t.List()
	if err != nil {
		return Round{}, fmt.Errorf("list the processes to collect: %w", err)
	}
	all := make([]softProcess, len(listed))
	defer func() {
		for i := range all {
			if all[i].pm != nil {
				all[i].pm.Close()
			}
		}
	}()
	overProcessors(len(all), func(i int) {
		all[i].Process = listed[i]
		all[i].prepare(t.Held(listed[i]))
	})
	var parts []*softPart
	for i := range all {
		for j := range all[i].parts {
			parts = append(parts, &all[i].parts[j])
		}
	}
	overProcessors(len(parts), func(i int) {
		if ctx.Err() == nil {
			parts[i].read()
		}
	})
	if err := ctx.Err(); err != nil {
		return Round{}, fmt.Errorf("last round of dirty pages: %w", err)
	}
	var r Round
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
		r.Pages += pr.Pages
		r.Ranges += len(pr.Dirty)
	}
	r.Took = time.Since(begin)
	return r, nil
}

// prepare reads the areas of the process and cuts them into parts.
func (p *softProcess) prepare(held []pagestream.Range) {
	s := scratch{}
	if p.pm, p.err = s.open(p.PID); p.err != nil {
		return
	}
	p.areas, p.held = s.areas, held
	for _, over := range p.areas.cut(softPiece) {
		p.parts = append(p.parts, softPart{of: p, over: over})
	}
}

// round puts the parts together.
func (p *softProcess) round() (ProcessRound, error) {
	pr := ProcessRound{Process: p.Process}
	if p.err != nil {
		return pr, p.err
	}
	for i := range p.parts {
		if err := p.parts[i].err; err != nil {
			return pr, err
		}
		for _, r := range p.parts[i].dirty {
			pr.Dirty = pagestream.AppendRun(pr.Dirty, r)
		}
	}
	pr.Pages = pagesOf(pr.Dirty)
	return pr, nil
}

// entriesPerRead is how many pagemap entries one read takes: 128 KiB of them.
const entriesPerRead = 16 << 10

// read reads the pagemap of one part.
func (part *softPart) read() {
	p := part.of
	buf := make([]pagemap.Entry, entriesPerRead)
	left := heldCursor(p.held)
	for i := p.areas.after(part.over.start); i < len(p.areas.lazy); i++ {
		from, to := max(p.areas.lazy[i].start, part.over.start), min(p.areas.lazy[i].end, part.over.end)
		if from >= part.over.end {
			return
		}
		for from < to {
			entries := buf[:min(uint64(len(buf)), (to-from)/pagestream.PageSize)]
			if err := p.pm.ReadEntries(from, entries); err != nil {
				part.err = gone(err)
				return
			}
			for _, e := range entries {
				if mustCopy(e, left.has(from)) {
					part.dirty = pagestream.AppendRun(part.dirty, pagestream.Range{Start: from, Pages: 1})
				}
				from += pagestream.PageSize
			}
		}
	}
}

// mustCopy says whether a page has content that the destination lacks.
func mustCopy(e pagemap.Entry, held bool) bool {
	switch {
	case !e.Present() && !e.Swapped(), e.Guard():
		return false
	case !held || e.SoftDirty():
		return e.Swapped() || e.Frame() != zeroFrame()
	}
	return false
}

// heldCursor tells of ascending addresses whether a range holds them.
type heldCursor []pagestream.Range

func (c *heldCursor) has(addr uint64) bool {
	for len(*c) > 0 && (*c)[0].End() <= addr {
		*c = (*c)[1:]
	}
	return len(*c) > 0 && (*c)[0].Start <= addr
}

// zeroFrame is the number of the kernel's page of zeros, which a private area
// shows where it was read and never written; 0 if it cannot be told.
var zeroFrame = sync.OnceValue(pagemap.ZeroFrame)

// overProcessors calls work for 0..n-1 on GOMAXPROCS processors.
func overProcessors(n int, work func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				work(i)
			}
		})
	}
	wg.Wait()
}
