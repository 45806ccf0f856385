package precopy

import (
	"fmt"

	"godwit.dev/godwit/pagestream"
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
