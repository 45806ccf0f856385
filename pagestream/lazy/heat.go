package lazy

const (
	// partPages is how much of a process is hot or not as a whole: 2 MiB.
	partPages = 512
	// hotFaults is from how many faults in a part on more of them are expected there.
	hotFaults = 2
)

// heat counts faults by the parts of a process that they are in, and says in which there are most. A table by which each request finds
// its way is a small part of memory and has many of the faults. (What an allocator spreads evenly among all else is hot nowhere.) It
// decides only; see memory.fillHot.
type heat struct {
	faults []uint32 // of each part, by the pages' numbers; nil before the first
	hot    []uint32 // the parts with hotFaults and more
	now    int      // which of these is the hottest, as long as it is not cooled; -1: to be looked for
}

// add counts a fault on a page of so many that the process has, and says whether its part is hot.
func (h *heat) add(page, pages uint64) bool {
	if h.faults == nil {
		h.faults = make([]uint32, (pages+partPages-1)/partPages)
		h.now = -1
	}
	part := page / partPages
	h.faults[part]++
	if h.faults[part] == hotFaults {
		h.hot = append(h.hot, uint32(part))
	}
	return h.faults[part] >= hotFaults
}

// hottest is the first page of the hottest part, and the one behind its last; false if none is hot. It stays the same until it is cooled.
func (h *heat) hottest() (first, end uint64, ok bool) {
	if len(h.hot) == 0 {
		return 0, 0, false
	}
	if h.now < 0 {
		h.now = 0
		for i, part := range h.hot {
			if h.faults[part] > h.faults[h.hot[h.now]] {
				h.now = i
			}
		}
	}
	first = uint64(h.hot[h.now]) * partPages
	return first, first + partPages, true
}

// cool forgets the faults of the part that is the hottest: nothing of it is left to be filled in.
func (h *heat) cool() {
	h.faults[h.hot[h.now]] = 0
	last := len(h.hot) - 1
	h.hot[h.now] = h.hot[last]
	h.hot, h.now = h.hot[:last], -1
}
