package store

import (
	"slices"

	"godwit.dev/godwit/pagestream"
)

// chunkPages is the number of pages that one part of an index covers: 2 MiB.
const chunkPages = 512

// entry says what a space knows of one page: nothing (0), that it is zero
// (isZero), or in which slot of the data file its content is. A page that has
// become zero keeps its slot, so that a page never has more than one.
type entry uint32

const (
	isZero   entry = 1 << 31
	slotMask entry = isZero - 1 // slot+1; 0 if the page has none

	// maxSlots is what an entry can say: 8 TiB.
	maxSlots = int64(slotMask)
)

func (e entry) hasSlot() bool { return e&slotMask != 0 }
func (e entry) slot() uint32  { return uint32(e&slotMask) - 1 }
func (e entry) data() bool    { return e != 0 && e&isZero == 0 }

// chunk is the entries of pages that lie one behind the other.
type chunk struct {
	entries [chunkPages]entry
	known   int // of which something is known
	// parts are the runs in it, as they were found last; nil if an entry has changed since. A page that comes again
	// changes none.
	parts []part
}

// part is a run within a chunk.
type part struct {
	first, pages uint16
	at           entry // of the first page
}

// maxParts is how many parts of a chunk are kept: what is more scattered is looked at again.
const maxParts = 32

// set makes an entry, and says what it was.
func (c *chunk) set(i uint64, e entry) (was entry) {
	was = c.entries[i]
	if was == e {
		return was
	}
	if was == 0 {
		c.known++
	}
	c.entries[i], c.parts = e, nil
	return was
}

// allZero stands for a chunk of which every page is zero and none has a slot.
// It is never written to.
var allZero = func() *chunk {
	c := &chunk{known: chunkPages, parts: []part{{0, chunkPages, isZero}}}
	for i := range c.entries {
		c.entries[i] = isZero
	}
	return c
}()

const (
	// chunkCost and keyCost are the bytes that a chunk, and a chunk's place in
	// the map, take.
	chunkCost = 4*chunkPages + 32 + 8*maxParts
	keyCost   = 64
)

// index maps the pages of a space to entries, in two levels. It counts its own
// memory, which whoever adds to it has to have reserved.
type index struct {
	chunks     map[uint64]*chunk // by page number / chunkPages
	sorted     []uint64          // the numbers of chunks, ascending, but for
	unsorted   []uint64          // those that have come since
	bytes      int64
	data, zero uint64 // pages
}

func newIndex() index { return index{chunks: make(map[uint64]*chunk)} }

// cost is the memory that making the chunks of a run writable, or zero, takes.
func (x *index) cost(page, pages uint64, toZero bool) int64 {
	first, last := page/chunkPages, (page+pages-1)/chunkPages
	var n int64
	for c := first; c <= last; c++ {
		whole := toZero && c*chunkPages >= page && (c+1)*chunkPages <= page+pages
		switch have := x.chunks[c]; {
		case have == nil && whole:
			n += keyCost
		case have == nil:
			n += keyCost + chunkCost
		case have == allZero && !toZero:
			n += chunkCost
		}
	}
	return n
}

// writable returns the chunk with this number, made if need be.
func (x *index) writable(c uint64) *chunk {
	have := x.chunks[c]
	switch have {
	case nil:
		have = new(chunk)
		x.bytes += keyCost + chunkCost
	case allZero:
		made := *allZero
		have = &made
		x.bytes += chunkCost
	default:
		return have
	}
	x.put(c, have)
	return have
}

// put gives a number a chunk.
func (x *index) put(c uint64, have *chunk) {
	if x.chunks[c] == nil {
		x.unsorted = append(x.unsorted, c)
	}
	x.chunks[c] = have
}

// setZero makes a run of pages zero.
func (x *index) setZero(page, pages uint64) {
	for end := page + pages; page < end; {
		c, i := page/chunkPages, page%chunkPages
		n := min(chunkPages-i, end-page)
		page += n
		have := x.chunks[c]
		if have == allZero {
			continue
		}
		if have == nil && n == chunkPages {
			x.put(c, allZero)
			x.bytes += keyCost
			x.zero += chunkPages
			continue
		}
		have = x.writable(c)
		for j := i; j < i+n; j++ {
			switch was := have.set(j, have.entries[j]|isZero); {
			case was.data():
				x.data--
				x.zero++
			case was == 0:
				x.zero++
			}
		}
	}
}

// keys returns the numbers of all chunks, ascending, as they are now. What it has returned stays as it is.
func (x *index) keys() []uint64 {
	if len(x.unsorted) == 0 {
		return x.sorted
	}
	slices.Sort(x.unsorted)
	all := make([]uint64, 0, len(x.sorted)+len(x.unsorted))
	before := x.sorted
	for _, c := range x.unsorted {
		n, _ := slices.BinarySearch(before, c)
		all = append(append(all, before[:n]...), c)
		before = before[n:]
	}
	x.sorted, x.unsorted = append(all, before...), nil
	return x.sorted
}

// absent calls f for each maximal run of pages within a run that the index
// knows nothing of, ascending. Its time is bounded by what the index holds, not
// by the length of the run.
func (x *index) absent(page, pages uint64, keys []uint64, f func(page, pages uint64)) {
	end := page + pages
	at, _ := slices.BinarySearch(keys, page/chunkPages)
	var gap, gapPages uint64
	note := func(page, pages uint64) {
		if gapPages > 0 && gap+gapPages == page {
			gapPages += pages
			return
		}
		if gapPages > 0 {
			f(gap, gapPages)
		}
		gap, gapPages = page, pages
	}
	for ; page < end; at++ {
		if at == len(keys) || keys[at]*chunkPages >= end {
			note(page, end-page)
			break
		}
		if start := keys[at] * chunkPages; start > page {
			note(page, start-page)
			page = start
		}
		c := x.chunks[keys[at]]
		i, n := page%chunkPages, min(chunkPages-page%chunkPages, end-page)
		if c.known < chunkPages {
			for j, e := range c.entries[i : i+n] {
				if e == 0 {
					note(page+uint64(j), 1)
				}
			}
		}
		page += n
	}
	if gapPages > 0 {
		f(gap, gapPages)
	}
}

// run is a maximal run of pages that lie one behind the other both in the space
// and in the data file, or are all zero.
type run struct {
	page, pages uint64
	slot        uint32
	zero        bool
}

// continues says whether another run can be joined to this one.
func (r run) continues(o run) bool {
	return r.page+r.pages == o.page && r.zero == o.zero && (r.zero || uint64(r.slot)+r.pages == uint64(o.slot))
}

// alike is how many entries from i on make one run with it.
func (c *chunk) alike(i uint64) uint64 {
	rest := c.entries[i:]
	first := rest[0]
	n := 1
	if first.data() {
		for n < len(rest) && rest[n] == first+entry(n) && rest[n].data() {
			n++
		}
		return uint64(n)
	}
	for n < len(rest) && rest[n]&isZero != 0 {
		n++
	}
	return uint64(n)
}

// look finds the parts of a chunk, and keeps them if they are few. The store is sealed while the pod stands still: what has not
// changed since settle need not be looked at then, page by page.
func (c *chunk) look(parts []part) []part {
	if c.parts != nil {
		return c.parts
	}
	for i := uint64(0); i < chunkPages; {
		if c.entries[i] == 0 {
			i++
			continue
		}
		n := c.alike(i)
		parts = append(parts, part{uint16(i), uint16(n), c.entries[i]})
		i += n
	}
	if len(parts) <= maxParts {
		c.parts = slices.Clone(parts)
	}
	return parts
}

// runs calls f for all maximal runs, ascending.
func (x *index) runs(f func(run) error) error {
	var now run
	var parts [chunkPages]part
	for _, k := range x.keys() {
		for _, p := range x.chunks[k].look(parts[:0]) {
			o := run{page: k*chunkPages + uint64(p.first), pages: uint64(p.pages), zero: !p.at.data()}
			if !o.zero {
				o.slot = p.at.slot()
			}
			if now.pages > 0 && now.continues(o) {
				now.pages += o.pages
				continue
			}
			if now.pages > 0 {
				if err := f(now); err != nil {
					return err
				}
			}
			now = o
		}
	}
	if now.pages > 0 {
		return f(now)
	}
	return nil
}

// within calls f for what the index knows of a run of pages, ascending, as
// maximal runs. At the first page that it knows nothing of it calls f with a run
// whose slot is absentSlot, and f has to return an error.
func (x *index) within(page, pages uint64, f func(run) error) error {
	var now run
	for end := page + pages; page < end; page++ {
		o := run{page: page, pages: 1, slot: absentSlot}
		if c := x.chunks[page/chunkPages]; c != nil {
			switch e := c.entries[page%chunkPages]; {
			case e.data():
				o.slot = e.slot()
			case e != 0:
				o.slot, o.zero = 0, true
			}
		}
		if now.pages > 0 && o.slot != absentSlot && now.continues(o) {
			now.pages++
			continue
		}
		if now.pages > 0 {
			if err := f(now); err != nil {
				return err
			}
		}
		if o.slot == absentSlot {
			return f(o)
		}
		now = o
	}
	if now.pages > 0 {
		return f(now)
	}
	return nil
}

// absentSlot is the slot of pages that are not there.
const absentSlot = ^uint32(0)

func pageOf(vaddr uint64) uint64 { return vaddr / pagestream.PageSize }
