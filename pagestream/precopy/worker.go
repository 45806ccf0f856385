package precopy

import (
	"errors"
	"fmt"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
	"godwit.dev/godwit/pagestream/pagemap"
)

// worker carries chunks from a source to a stream. Everything it needs for a
// chunk is allocated once.
type worker struct {
	stream Stream
	deltas DeltaStream // the same one, if it can send deltas; else nil
	pace   Pace
	buf    []byte
	// For the runs that are left of a chunk after each thinning.
	present, changed, whole []pagestream.Range
	batch                   delta.Batch

	// The chunk under way.
	area  *area
	runs  []pagestream.Range
	pages uint64
}

func newWorker(stream Stream) *worker {
	deltas, _ := stream.(DeltaStream)
	return &worker{
		stream:  stream,
		deltas:  deltas,
		buf:     make([]byte, chunkBytes),
		runs:    make([]pagestream.Range, 0, chunkPages),
		present: make([]pagestream.Range, 0, chunkPages),
		changed: make([]pagestream.Range, 0, chunkPages),
		whole:   make([]pagestream.Range, 0, chunkPages),
	}
}

// carry reads the chunk and sends what can be read of it and must be sent.
func (w *worker) carry() (CopyStats, error) {
	var stats CopyStats
	a, runs := w.area, w.runs
	w.pages = pagesOf(runs)
	data := w.buf[:w.pages*pagestream.PageSize]
	missing, err := a.source.read(runs, data)
	if errors.Is(err, pagemap.ErrGone) {
		a.gone.Store(true)
		stats.Gone = w.pages
		return stats, nil
	}
	if err != nil {
		return stats, fmt.Errorf("read pages of space %s: %w", a.space, err)
	}
	if len(missing) > 0 {
		stats.Skipped = pagesOf(missing)
		stats.FirstSkipped = SkippedPage{a.space, missing[0].Start}
		runs, data = without(missing, runs, data, w.present[:0])
	}
	read := uint64(len(data))
	if a.sift != nil {
		runs, data = a.sift(runs, data, w.changed[:0])
	}
	stats.Sent = uint64(len(data)) / pagestream.PageSize
	stats.Unchanged = read/pagestream.PageSize - stats.Sent
	runs, data, err = w.sendDeltas(runs, data, &stats)
	if err != nil || len(data) == 0 {
		return stats, err
	}
	if err := w.stream.Runs(a.space, runs, data); err != nil {
		return stats, fmt.Errorf("send pages of space %s: %w", a.space, err)
	}
	return stats, nil
}

// without takes the missing pages, which are in the order of runs, out of runs
// and data. The result's runs are appended to dst.
func without(missing, runs []pagestream.Range, data []byte, dst []pagestream.Range) ([]pagestream.Range, []byte) {
	return pagestream.PickPages(runs, data, dst, func(address uint64, _ []byte) bool {
		for len(missing) > 0 && missing[0].End() <= address {
			missing = missing[1:]
		}
		return len(missing) == 0 || address < missing[0].Start
	})
}
