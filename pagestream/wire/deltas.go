package wire

import (
	"fmt"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
)

// Bounds of a frame of deltas.
const (
	// maxDeltaPages is the most pages that it changes: their content fits in MaxData.
	maxDeltaPages = MaxData / pagestream.PageSize
	// maxDeltas is the most bytes that their records have.
	maxDeltas = maxDeltaPages * delta.MaxRecord
	// deltaGain is how many times smaller than the page as it would cross the link otherwise
	// a record must be: the receiver has to read the page first, and the sender to keep it.
	deltaGain = 2
	// boundFor is how many windows of frames have to go without waiting for the link before a
	// stream that was held back by it does not count as such any more. A window of them is
	// under way before anything waits, so small rounds tell nothing.
	boundFor = 4
	// slowShare is how many times as much as the link takes the stream must be able to encrypt and hand to the
	// kernel. That is a third of what it does with a page, and the receiver does as much.
	slowShare = 8
	// starved is the part of a processor below which a stream cannot tell a slow link from a machine that
	// has no time for its network.
	starved = 0.25
)

// DeltaLimit is the most bytes that a record of package delta may have to be worth sending
// in a page's place; 0: none is, as the peer does not know deltas, or the link does not hold the
// stream back.
func (s *Stream) DeltaLimit() int {
	if s.conn.features&featureDeltas == 0 {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.observe.deltaLimit()
}

// deltaLimit goes by what the stream's codec made of its pages lately.
func (o *observer) deltaLimit() int {
	if !o.bound {
		return 0
	}
	ratio := 1.0
	switch r := o.now.Current; {
	case o.mode == NoCompression || o.mode == Auto && (o.now.Sample >= incompressible || r == rungNone):
	case o.mode == Zstd:
		ratio = o.now.Did[rungZstd].ratio()
	case o.mode == LZ4:
		ratio = o.now.Did[rungLZ4].ratio()
	default:
		ratio = o.now.Did[r].ratio()
	}
	return min(int(ratio*pagestream.PageSize)/deltaGain, delta.MaxRecord)
}

// ratio is how much of its size a frame keeps.
func (p performance) ratio() float64 {
	if !p.Known {
		return 1
	}
	return p.Ratio
}

// slowLink says whether the link holds the stream back so much that a copy of what goes over it
// is worth its memory. Processes on one machine, or a fast network, wait for each
// other now and then, too. A limit on the bandwidth is one however little of a processor the stream has.
func (c conditions) slowLink(limited bool) bool {
	return c.Link > 0 && slowShare*c.Link < c.Transmit*c.CPU && (limited || c.CPU >= starved)
}

// noteBound takes in whether the link held the stream back in an epoch, and what went over it.
func (o *observer) noteBound(heldBack bool, bytes uint64) {
	if heldBack {
		o.bound, o.free = true, 0
		return
	}
	if o.free += bytes; o.free > boundFor*o.window {
		o.bound = false
	}
}

// Deltas changes pages at the receiver: records are those of package delta, one for each page
// of the runs, which ascend. Everything that the records were made against must be stored
// there: a Flush has returned since it was sent. It may be called only if DeltaLimit is
// not 0, or was not.
func (s *Stream) Deltas(space pagestream.Space, runs []pagestream.Range, records []byte) error {
	if err := s.checkDeltas(space, runs, records); err != nil {
		return err
	}
	if len(runs) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch.reset()
	defer s.batch.reset()
	table := s.batch.table[:0]
	var pages uint64
	for _, r := range runs {
		table = appendRun(table, run{Range: r})
		pages += r.Pages
	}
	s.pieces = append(s.pieces[:0], records)
	h := header{kind: frameDeltas, space: space, runs: uint32(len(runs)), raw: uint32(len(records))}
	err := s.send(h, table, s.pieces)
	clear(s.pieces[:cap(s.pieces)])
	if err == nil {
		s.written.deltaPages.Add(pages)
		s.written.deltaBytes.Add(uint64(len(records)))
	}
	return err
}

func (s *Stream) checkDeltas(space pagestream.Space, runs []pagestream.Range, records []byte) error {
	if s.conn.features&featureDeltas == 0 {
		return fmt.Errorf("deltas for peer %s, which does not know them: %w", s.session.peer, ErrMismatch)
	}
	if err := space.Valid(); err != nil {
		return err
	}
	var pages uint64
	for _, r := range runs {
		if err := r.Valid(); err != nil {
			return err
		}
		pages += min(r.Pages, maxDeltaPages+1)
	}
	if pages > maxDeltaPages || len(runs) > maxRuns || len(records) > maxDeltas {
		return fmt.Errorf("deltas of %d pages in %d runs with %d bytes in one call, at most %d, %d and %d are allowed",
			pages, len(runs), len(records), maxDeltaPages, maxRuns, maxDeltas)
	}
	return nil
}

// decodeDeltaRuns reads the run table of a frame of deltas. There is no run of zeros, and no
// more than maxDeltaPages. Errors wrap ErrProtocol.
func decodeDeltaRuns(runs []run, table []byte) ([]run, error) {
	runs, pages, err := parseRuns(runs, table, maxDeltaPages)
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		if r.zero {
			return nil, fmt.Errorf("run table: deltas of zero pages: %w", ErrProtocol)
		}
	}
	if pages == 0 {
		return nil, fmt.Errorf("run table: deltas of no pages: %w", ErrProtocol)
	}
	return runs, nil
}

// deliverDeltas changes pages that the Receiver has. No page is stored that is not the one
// that the sender meant: a record says what must come out.
func (r *reception) deliverDeltas(space pagestream.Space, records []byte) error {
	for _, run := range r.runs {
		pages := r.decoder.room()[:run.Bytes()]
		if err := r.receiver.Stored(space, run.Start, pages); err != nil {
			return &receiverError{fmt.Sprintf("pages %s of %s, to be changed", run.Range, space), err}
		}
		for at := 0; at < len(pages); at += pagestream.PageSize {
			record, rest, err := delta.Next(records)
			if err == nil {
				err = record.Apply(pages[at : at+pagestream.PageSize])
			}
			if err != nil {
				return fmt.Errorf("page %#x of %s: %w: %w", run.Start+uint64(at), space, err, ErrProtocol)
			}
			records = rest
		}
		if err := r.receiver.Pages(space, run.Start, pages); err != nil {
			return &receiverError{fmt.Sprintf("pages %s of %s", run.Range, space), err}
		}
	}
	if len(records) > 0 {
		return fmt.Errorf("%d bytes behind the last delta: %w", len(records), ErrProtocol)
	}
	return nil
}
