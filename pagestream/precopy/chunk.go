package precopy

import (
	"slices"
	"sync/atomic"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
)

const (
	// chunkBytes is the buffer of a worker and the most that one call of
	// Runs carries.
	chunkBytes = 256 << 10
	chunkPages = chunkBytes / pagestream.PageSize
	// minChunkPages keeps the cost of a call small against that of its pages
	// when a small copy is spread over the streams.
	minChunkPages = 16
)

// area is pages to copy out of one space.
type area struct {
	space  pagestream.Space
	source source
	ranges []pagestream.Range // ascending, not overlapping, none empty
	sift   siftFunc           // nil: every page is sent
	copies *delta.Cache       // of pages that the destination has; nil: all are sent whole
	gone   atomic.Bool        // the source said pagemap.ErrGone
}

// siftFunc looks at pages that were read, moves those that must be sent to the
// front of data, and appends their runs to dst. It is called by several workers
// at once, never with the same page.
type siftFunc func(runs []pagestream.Range, data []byte, dst []pagestream.Range) ([]pagestream.Range, []byte)

// task is one copy: a cursor over its areas that cuts chunks off.
type task struct {
	pace       Pace
	chunkPages uint64
	handled    atomic.Uint64 // pages dealt with
	done       chan struct{} // closed when the copy has ended

	// The copier's mu guards what follows.
	areas    []*area // those not begun, and first the one under way
	at       int     // index in areas[0].ranges
	skip     uint64  // pages of that range that are taken already
	inFlight int
	stats    CopyStats
	err      error // the first one; no chunk is taken after it
}

func newTask(areas []*area, streams int, pace Pace) *task {
	var total uint64
	for _, a := range areas {
		a.ranges = ascending(a.ranges)
		total += pagesOf(a.ranges)
	}
	share := total / uint64(streams*4)
	t := &task{
		pace:       pace,
		chunkPages: min(max(share, minChunkPages), chunkPages),
		done:       make(chan struct{}),
		areas:      areas,
	}
	t.skipEmpty()
	return t
}

func (t *task) exhausted() bool { return t.err != nil || len(t.areas) == 0 }

func (t *task) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// next appends the ranges of the next chunk, all of one area, to runs, which
// it never grows over its capacity. A nil area means that nothing is left.
func (t *task) next(runs []pagestream.Range) (*area, []pagestream.Range) {
	t.skipEmpty()
	if t.exhausted() {
		return nil, runs
	}
	a := t.areas[0]
	room := t.chunkPages
	for room > 0 && t.at < len(a.ranges) && len(runs) < cap(runs) {
		r := a.ranges[t.at]
		n := min(r.Pages-t.skip, room)
		runs = append(runs, pagestream.Range{Start: r.Start + t.skip*pagestream.PageSize, Pages: n})
		room -= n
		t.skip += n
		if t.skip == r.Pages {
			t.at, t.skip = t.at+1, 0
		}
	}
	t.skipEmpty()
	return a, runs
}

// skipEmpty moves on to an area that has pages left and whose owner lives.
func (t *task) skipEmpty() {
	for len(t.areas) > 0 {
		a := t.areas[0]
		if t.at < len(a.ranges) && !a.gone.Load() {
			return
		}
		if t.at < len(a.ranges) {
			left := pagesOf(a.ranges[t.at:]) - t.skip
			t.stats.Gone += left
			t.handled.Add(left)
		}
		t.areas, t.at, t.skip = t.areas[1:], 0, 0
	}
}

// pagesOf counts the pages of ranges.
func pagesOf(ranges []pagestream.Range) uint64 {
	var n uint64
	for _, r := range ranges {
		n += r.Pages
	}
	return n
}

// ascending returns ranges as they are if they ascend without overlap and none
// is empty, which is what a tracker delivers, and otherwise sorted and merged:
// a page is sent at most once in a round.
func ascending(ranges []pagestream.Range) []pagestream.Range {
	var end uint64
	ok := true
	for _, r := range ranges {
		ok = ok && r.Pages > 0 && r.Start >= end
		end = r.End()
	}
	if ok {
		return ranges
	}
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b pagestream.Range) int {
		if a.Start < b.Start {
			return -1
		}
		if a.Start > b.Start {
			return 1
		}
		return 0
	})
	merged := sorted[:0]
	for _, r := range sorted {
		merged = pagestream.AppendRun(merged, r)
	}
	return merged
}
