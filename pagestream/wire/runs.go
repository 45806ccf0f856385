package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"godwit.dev/godwit/pagestream"
)

const (
	// runSize is the size of an entry of a run table: start u64, pages u64
	// with zeroFlag, little endian.
	runSize = 16
	// maxRuns is the most entries of one frame's table.
	maxRuns = 1024
	// maxTable is the most bytes of one frame's table.
	maxTable = maxRuns * runSize
	// zeroFlag marks a run whose pages are zero: the body has no data for it.
	zeroFlag = 1 << 63
)

// run is an entry of a run table.
type run struct {
	pagestream.Range
	zero bool
}

func appendRun(table []byte, r run) []byte {
	pages := r.Pages
	if r.zero {
		pages |= zeroFlag
	}
	table = binary.LittleEndian.AppendUint64(table, r.Start)
	return binary.LittleEndian.AppendUint64(table, pages)
}

// decodeRuns reads a run table into runs, which it returns. The ranges are
// valid and those with data add up to exactly raw bytes. Errors wrap
// ErrProtocol.
func decodeRuns(runs []run, table []byte, raw uint32) ([]run, error) {
	most := uint64(raw) / pagestream.PageSize
	runs, pages, err := parseRuns(runs, table, most)
	if err == nil && pages != most {
		return nil, fmt.Errorf("run table: %d pages fewer than the body's %d bytes: %w", most-pages, raw, ErrProtocol)
	}
	return runs, err
}

// parseRuns reads a run table, in which at most so many pages have data. It returns how many
// do.
func parseRuns(runs []run, table []byte, most uint64) ([]run, uint64, error) {
	runs = runs[:0]
	if len(table)%runSize != 0 || len(table) > maxTable {
		return nil, 0, fmt.Errorf("run table of %d bytes: %w", len(table), ErrProtocol)
	}
	left := most
	for ; len(table) > 0; table = table[runSize:] {
		pages := binary.LittleEndian.Uint64(table[8:])
		r := run{zero: pages&zeroFlag != 0}
		r.Start = binary.LittleEndian.Uint64(table)
		r.Pages = pages &^ zeroFlag
		if err := r.Valid(); err != nil {
			return nil, 0, fmt.Errorf("run table: %w: %w", err, ErrProtocol)
		}
		if !r.zero {
			if r.Pages > left {
				return nil, 0, fmt.Errorf("run table: more than the %d pages of its body: %w", most, ErrProtocol)
			}
			left -= r.Pages
		}
		runs = append(runs, r)
	}
	return runs, most - left, nil
}

var zeroPage [pagestream.PageSize]byte

// isZero looks at one page. A page with data is nearly always told by its
// first bytes; bytes.Equal compares 64 at a time and ends at a difference.
func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }

// batch collects the run table of one frame and the spans of the caller's
// data that belong to it, without copying them.
type batch struct {
	table []byte // encoded runs, capacity maxTable
	last  run    // the last run, not in the table yet; Pages 0: none
	spans []span // of the caller's data
	raw   uint32 // bytes of the spans
	zeros uint64 // pages of the zero runs
}

// span is a part of the caller's data.
type span struct{ from, to int }

func (b *batch) reset() { *b = batch{table: b.table[:0], spans: b.spans[:0]} }

// full says that the table may have no room for another run.
func (b *batch) full() bool { return len(b.table)+2*runSize > maxTable }

// runs is the number of runs once the table is closed.
func (b *batch) runs() uint32 { return uint32(len(b.table) / runSize) }

// add appends a run; unless it is zero, its data is the caller's from offset
// from. Adjacent runs of one kind become one, and so do adjacent spans.
func (b *batch) add(r run, from int) {
	if b.last.Pages > 0 && b.last.zero == r.zero && b.last.End() == r.Start {
		b.last.Pages += r.Pages
	} else {
		b.closeTable()
		b.last = r
	}
	if r.zero {
		b.zeros += r.Pages
		return
	}
	to := from + int(r.Bytes())
	b.raw += uint32(r.Bytes())
	if n := len(b.spans); n > 0 && b.spans[n-1].to == from {
		b.spans[n-1].to = to
		return
	}
	b.spans = append(b.spans, span{from, to})
}

// closeTable puts the last run into the table.
func (b *batch) closeTable() {
	if b.last.Pages > 0 {
		b.table = appendRun(b.table, b.last)
		b.last = run{}
	}
}

// nextKind measures how many pages at the start of data are alike, all zero
// or none zero.
func nextKind(data []byte) (pages uint64, zero bool) {
	zero = isZero(data[:pagestream.PageSize])
	pages = 1
	for at := pagestream.PageSize; at < len(data); at += pagestream.PageSize {
		if isZero(data[at:at+pagestream.PageSize]) != zero {
			break
		}
		pages++
	}
	return pages, zero
}
