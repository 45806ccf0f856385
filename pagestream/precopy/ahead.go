package precopy

import (
	"context"
	"fmt"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/track"
)

// Where the rest may be left at the source (Policy.Leaves), pages that are written again
// before the freeze are copied in vain: they cost the link twice, and nobody waits less for
// it. So before the rounds a part of the memory is copied, slice by slice, and looked at
// again after each.
const (
	// aheadSlices is how many slices the memory has, aheadMost how many of them are copied to
	// judge by.
	aheadSlices, aheadMost = 8, 4
	// vainShare: if more than one in so many pages that were copied is dirty again, copying
	// ahead is in vain.
	vainShare = 4
	// minAhead is the least memory that is worth judging, pages.
	minAhead = (16 << 20) / pagestream.PageSize
)

// InVain is the reason for which there are no rounds.
const InVain Reason = "memory is written again as fast as it is copied"

// trial is what was copied ahead so far.
type trial struct {
	total  uint64 // pages of the pod
	slices int
	sent   map[pagestream.Space][]pagestream.Range
}

// verdict is what comes after a look at what was copied.
type verdict int

const (
	copySlice verdict = iota // another slice
	doRounds                 // the rounds, with all that is left
	leaveRest                // nothing: the rest is left at the source
)

// judge looks at what is dirty now of the pages that were copied.
func (t *trial) judge(dirty map[pagestream.Space][]pagestream.Range) verdict {
	var sent, again uint64
	for space, ranges := range t.sent {
		sent += pagesOf(ranges)
		again += pagesOf(pagestream.Intersect(ranges, dirty[space]))
	}
	switch {
	case t.total < minAhead:
		return doRounds
	case again > sent/vainShare:
		return leaveRest
	case t.slices == aheadMost:
		return doRounds
	}
	return copySlice
}

// slice takes the next pages to copy out of those that are dirty and were not copied yet.
func (t *trial) slice(dirty map[pagestream.Space][]pagestream.Range) map[pagestream.Space][]pagestream.Range {
	room := t.total / aheadSlices
	send := make(map[pagestream.Space][]pagestream.Range)
	for space, ranges := range dirty {
		part := pagestream.First(pagestream.Subtract(ranges, t.sent[space]), room)
		if n := pagesOf(part); n > 0 {
			room -= n
			send[space] = part
			t.sent[space] = pagestream.Union(t.sent[space], part)
		}
	}
	t.slices++
	return send
}

// ahead copies a part of the memory, and says whether to copy more would be in vain. What it
// did not copy, or is dirty again, the next collection reports.
func (r *Rounds) ahead(ctx context.Context) (vain bool, err error) {
	tracker, ok := r.config.Tracker.(Deferrer)
	if !ok || !r.config.Policy.Leaves || r.config.Carrier != nil {
		return false, nil
	}
	t := trial{sent: make(map[pagestream.Space][]pagestream.Range)}
	for {
		found, err := r.config.Tracker.Collect(ctx)
		if err != nil {
			return false, fmt.Errorf("collect dirty pages: %w", err)
		}
		dirty := make(map[pagestream.Space][]pagestream.Range, len(found.Processes))
		for _, p := range found.Processes {
			dirty[p.Space] = ascending(p.Dirty)
			if t.slices == 0 {
				t.total += pagesOf(p.Dirty)
			}
			if p.New {
				delete(t.sent, p.Space)
			}
		}
		v := t.judge(dirty)
		if v != copySlice {
			deferAll(tracker, dirty)
			return v == leaveRest, nil
		}
		if err := r.copySlice(ctx, found, t.slice(dirty), tracker, dirty); err != nil {
			return false, err
		}
	}
}

// copySlice copies some of what is dirty and has the rest reported again.
func (r *Rounds) copySlice(ctx context.Context, found track.Round, send map[pagestream.Space][]pagestream.Range, tracker Deferrer, dirty map[pagestream.Space][]pagestream.Range) error {
	var memories []Memory
	left := make(map[pagestream.Space][]pagestream.Range)
	for _, p := range found.Processes {
		left[p.Space] = pagestream.Subtract(dirty[p.Space], send[p.Space])
		if ranges := send[p.Space]; len(ranges) > 0 {
			memories = append(memories, Memory{PID: p.PID, Space: p.Space, Ranges: ranges})
		}
	}
	deferAll(tracker, left)
	r.reporter.roundBegins(0, pagesOfDirty(dirty))
	_, _, err := r.store(ctx, processAreas(memories))
	return err
}

func deferAll(tracker Deferrer, ranges map[pagestream.Space][]pagestream.Range) {
	for space, r := range ranges {
		if len(r) > 0 {
			tracker.Defer(space, r)
		}
	}
}

func pagesOfDirty(dirty map[pagestream.Space][]pagestream.Range) (n uint64) {
	for _, ranges := range dirty {
		n += pagesOf(ranges)
	}
	return n
}
