package lazy

import (
	"math/bits"

	"godwit.dev/godwit/pagestream/store"
)

const (
	// folioUnits is how many units of the store's data file a huge page has, 2 MiB: the kernel gives a part of one back by splitting it,
	// and takes a mapping of it apart, and its translations from all processors, at each call (mm/truncate.c,
	// truncate_inode_partial_folio; mm/shmem.c, shmem_fallocate).
	folioUnits = (2 << 20) / (store.GiveUnit * pageSize)
	// hoardShare is the part of a source's units that may be spare and not given back.
	hoardShare = 16
)

// hoard keeps units that are spare until all of their huge page is, so that one call gives it back. What it keeps is memory that is
// held twice, so it is bounded. It decides only; see server.giveBack.
type hoard struct {
	spare  []uint32 // of each huge page: units that are spare and kept
	left   []uint32 // units that have not been handed out
	kept   uint64   // units
	most   uint64   // of them
	turn   int      // the huge page that is given back next, whole or not, when there are too many
	whole  []int    // huge pages of which nothing is needed
	pieces []pageRun
}

// newHoard is that of a data file of so many units, some of which have been given back.
func newHoard(units uint64, given func(unit uint64) bool) *hoard {
	n := (units + folioUnits - 1) / folioUnits
	h := &hoard{spare: make([]uint32, n), left: make([]uint32, n), most: units / hoardShare}
	for u := range units {
		if !given(u) {
			h.left[u/folioUnits] |= 1 << (u % folioUnits)
		}
	}
	return h
}

// add takes units in that have become spare.
func (h *hoard) add(runs []pageRun) {
	for _, r := range runs {
		for u := r.first; u < r.first+r.n; u++ {
			i := u / folioUnits
			h.spare[i] |= 1 << (u % folioUnits)
			if h.spare[i] == h.left[i] {
				h.whole = append(h.whole, int(i))
			}
		}
		h.kept += r.n
	}
}

// ripe hands out what is to be given back now: huge pages that are spare as a whole, and parts of others if too much is kept. What it
// returns holds until the next call.
func (h *hoard) ripe() []pageRun {
	h.pieces = h.pieces[:0]
	for _, i := range h.whole {
		h.hand(i)
	}
	h.whole = h.whole[:0]
	for h.kept > h.most {
		h.hand(h.turn)
		h.turn = (h.turn + 1) % len(h.spare)
	}
	return h.pieces
}

// hand hands out what is spare of one huge page.
func (h *hoard) hand(i int) {
	spare := h.spare[i]
	h.kept -= uint64(bits.OnesCount32(spare))
	h.left[i] &^= spare
	h.spare[i] = 0
	for at := uint64(0); spare != 0; {
		skip := uint64(bits.TrailingZeros32(spare))
		n := uint64(bits.TrailingZeros32(^(spare >> skip)))
		h.pieces = append(h.pieces, pageRun{uint64(i)*folioUnits + at + skip, n})
		at, spare = at+skip+n, spare>>skip>>n
	}
}
