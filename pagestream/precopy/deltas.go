package precopy

import (
	"fmt"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
	"godwit.dev/godwit/pagestream/track"
)

// DeltaStream is a Stream that can send what changed in pages since they were stored.
type DeltaStream interface {
	Stream
	// DeltaLimit is the most bytes that a record of package delta may have to be worth
	// sending; 0: none is worth it.
	DeltaLimit() int
	// Deltas sends the records of the pages of runs, which ascend and do not overlap, one for
	// each page. Both are free for reuse on return.
	Deltas(space pagestream.Space, runs []pagestream.Range, records []byte) error
}

// sendDeltas sends those pages of a chunk as deltas for which that is worth it, books them,
// and returns the others.
//
// A delta is against what a copy before this one sent: a flush has ended that, so it is stored
// whichever stream took it, and no page is sent twice in one copy.
func (w *worker) sendDeltas(runs []pagestream.Range, data []byte, stats *CopyStats) ([]pagestream.Range, []byte, error) {
	a := w.area
	if a.copies == nil || w.deltas == nil || len(data) == 0 {
		return runs, data, nil
	}
	limit := w.deltas.DeltaLimit()
	runs, data = a.copies.Split(a.space, runs, data, w.whole[:0], limit, limit > 0, &w.batch)
	if len(w.batch.Runs) == 0 {
		return runs, data, nil
	}
	if err := w.deltas.Deltas(a.space, w.batch.Runs, w.batch.Body); err != nil {
		return nil, nil, fmt.Errorf("send changes of pages of space %s: %w", a.space, err)
	}
	stats.Deltas = w.batch.Pages()
	stats.DeltaBytes = uint64(len(w.batch.Body))
	return runs, data, nil
}

// Carried is how many bytes of pages and deltas went to the streams.
func (s CopyStats) Carried() uint64 { return (s.Sent-s.Deltas)*pagestream.PageSize + s.DeltaBytes }

// probedPages is of how many pages of a process it is looked at what deltas of them would take.
const probedPages = 32

// savedOf is how many bytes of a process' pages, which are left out of the rounds, the last copy
// will not have to carry, as it has copies of them: in bytes of pages that go whole.
func (r *Rounds) savedOf(p track.Process, left []pagestream.Range) uint64 {
	stream, ok := r.config.Session.Stream(0).(DeltaStream)
	if !ok || r.resent == nil || r.resent.copies.Pages() == 0 {
		return 0
	}
	limit := stream.DeltaLimit()
	held := r.resent.copies.Held(func(k delta.Key) bool { return k.Space == p.Space && pagestream.Contains(left, k.Address) })
	if limit == 0 || len(held) == 0 {
		return 0
	}
	probed := held[:min(len(held), probedPages)] // any: a map has no order
	taken, page := 0, make([]byte, pagestream.PageSize)
	for _, k := range probed {
		missing, err := process{p.PID}.read([]pagestream.Range{{Start: k.Address, Pages: 1}}, page)
		if err != nil || len(missing) > 0 {
			return 0 // the next round sees what has become of it
		}
		taken += r.resent.copies.Measure(k, page, limit)
	}
	return savedBytes(len(held), len(probed), taken, limit)
}

// savedBytes is what is saved by so many pages, if some of them take so many bytes. A delta is
// not compressed, as pages are: limit says how many bytes of a delta are worth half a page.
func savedBytes(pages, probed, taken, limit int) uint64 {
	each := float64(taken) / float64(probed) * (pagestream.PageSize / 2) / float64(limit)
	return uint64(float64(pages) * max(0, pagestream.PageSize-each))
}
