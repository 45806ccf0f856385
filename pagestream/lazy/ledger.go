package lazy

import (
	"math/bits"
	"slices"

	"godwit.dev/godwit/pagestream/store"
)

// ledger decides what the store can give back of a source's pages: those that every
// process has in place, or wants no more. It decides only; see server.giveBack.
//
// A page is needed as long as one memory of the source has it not done. Children share
// their parent's source, and one that is born has done what its parent had: so a page that
// nobody needs is needed by nobody later. Nothing becomes done between a fork and the reading
// of its event: until then the kernel refuses to fill in (EAGAIN; fs/userfaultfd.c,
// mmap_changing), as it does for a move and an unmapping.
type ledger struct {
	free    bitmap    // pages that nobody needs, by number
	slots   []slotRun // where pages are in the store's data file, ascending by first
	needed  []uint16  // of each unit of the data file: pages in it that are needed
	touched []pageRun // pages that have become done in a memory since the last look
	spare   []uint64  // units that are not needed and not taken by the caller yet
}

// pageRun is pages of a source that lie one behind the other, by number.
type pageRun struct{ first, n uint64 }

// slotRun is pages of a source that lie one behind the other in the data file too.
type slotRun struct{ first, n, slot uint64 }

// newLedger begins with what given says has been given back already: the pages in there
// are done in every memory.
func newLedger(s *source, units uint64, given func(unit uint64) bool) *ledger {
	l := &ledger{free: newBitmap(s.pages), needed: make([]uint16, units)}
	for _, p := range s.pieces {
		if !p.stored {
			continue
		}
		r := slotRun{p.first, p.pages, p.slot}
		l.slots = append(l.slots, r)
		r.units(func(unit, first, n uint64) {
			if given(unit) {
				l.free.set(first, n)
			} else {
				l.needed[unit] += uint16(n)
			}
		})
	}
	for unit, n := range l.needed {
		if n == 0 && !given(uint64(unit)) {
			l.spare = append(l.spare, uint64(unit))
		}
	}
	return l
}

// units calls f for the parts of a run that lie in one unit of the data file each.
func (r slotRun) units(f func(unit, first, n uint64)) {
	for r.n > 0 {
		unit := r.slot / store.GiveUnit
		n := min(r.n, (unit+1)*store.GiveUnit-r.slot)
		f(unit, r.first, n)
		r = slotRun{r.first + n, r.n - n, r.slot + n}
	}
}

// touch notes that pages are done in one memory more; all of them, when a memory is gone.
func (l *ledger) touch(first, n uint64) {
	if k := len(l.touched) - 1; k >= 0 && l.touched[k].first+l.touched[k].n == first {
		l.touched[k].n += n
		return
	}
	l.touched = append(l.touched, pageRun{first, n})
}

// take returns the units of the data file that have become spare: no memory needs a page
// in them. done are those of all memories that there are. Units are returned once, as runs.
func (l *ledger) take(done []*bitmap) []pageRun {
	for _, r := range l.touched {
		l.look(r, done)
	}
	l.touched = l.touched[:0]
	if len(l.spare) == 0 {
		return nil
	}
	slices.Sort(l.spare)
	var runs []pageRun
	for _, unit := range l.spare {
		if k := len(runs) - 1; k >= 0 && runs[k].first+runs[k].n == unit {
			runs[k].n++
			continue
		}
		runs = append(runs, pageRun{unit, 1})
	}
	l.spare = l.spare[:0]
	return runs
}

// look finds what nobody needs any more among pages that were touched.
func (l *ledger) look(r pageRun, done []*bitmap) {
	for at, end := r.first, r.first+r.n; at < end; {
		w, i := at/64, at%64
		k := min(64-i, end-at)
		fresh := (^uint64(0) >> (64 - k)) << i &^ l.free.words[w]
		for _, d := range done {
			fresh &= d.words[w]
		}
		for fresh != 0 {
			first := uint64(bits.TrailingZeros64(fresh))
			n := uint64(bits.TrailingZeros64(^(fresh >> first)))
			l.release(w*64+first, n)
			if first+n == 64 {
				break
			}
			fresh &^= (1<<n - 1) << first
		}
		at += k
	}
}

// release counts pages as not needed that were.
func (l *ledger) release(first, n uint64) {
	l.free.set(first, n)
	i, _ := slices.BinarySearchFunc(l.slots, first, func(r slotRun, page uint64) int {
		if r.first+r.n <= page {
			return -1
		}
		return 1
	})
	for end := first + n; i < len(l.slots) && l.slots[i].first < end; i++ {
		r := l.slots[i]
		from, to := max(first, r.first), min(end, r.first+r.n)
		slotRun{from, to - from, r.slot + from - r.first}.units(func(unit, _, n uint64) {
			if l.needed[unit] -= uint16(n); l.needed[unit] == 0 {
				l.spare = append(l.spare, unit)
			}
		})
	}
}
