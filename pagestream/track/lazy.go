package track

import (
	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// Lazy says whether the pages of an area are left to a lazy restore, so that
// they can be sent before the freeze. It is vma_entry_can_be_lazy of CRIU 4.2
// (criu/include/vma.h): MAP_ANONYMOUS and MAP_PRIVATE, neither MAP_LOCKED nor
// MAP_HUGETLB, and not the vDSO, vvar or vsyscall. How that function's fields
// come about is in criu/proc_parse.c: an area is anonymous if it has no file
// (handle_vma), and one with "dp" is not private (parse_vma_vmflags), its pages
// never dumped (generate_vma_iovs in criu/mem.c). CRIU refuses a process with
// VM_IO or VM_PFNMAP areas other than vvar. Areas that grow down are lazy like
// any other; permissions do not matter.
//
// Without the flags of smaps an area counts as neither locked nor droppable, and
// so more is lazy than CRIU will find: it is sent for nothing, but nothing is
// missing when a lock is lifted at the last moment.
//
// CRIU writes all pages of a process at once, lazy or not, if the stack pointer
// of one of its threads is a multiple of the page size (is_stack in criu/mem.c
// compares the offsets within a page). The images then have no lazy entries, and
// what was sent early is not needed.
func Lazy(v pagemap.VMA) bool {
	if v.Perms&pagemap.Shared != 0 || v.Inode != 0 || v.Major != 0 || v.Minor != 0 {
		return false
	}
	switch v.Path {
	case "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[vectors]", "[uprobes]":
		return false
	}
	const never = pagemap.FlagLocked | pagemap.FlagHugeTLB | pagemap.FlagDroppable | pagemap.FlagIO | pagemap.FlagPFNMap
	return v.Flags&never == 0
}

// span is a part of an address space, in bytes.
type span struct{ start, end uint64 }

// pages is the span as a range.
func (s span) pages() pagestream.Range {
	return pagestream.Range{Start: s.start, Pages: (s.end - s.start) / pagestream.PageSize}
}

// maxDetour is how large an area in between may be if two lazy areas are to be
// scanned in one go. Walking over it costs less than a call of its own.
const maxDetour = 2 << 20

// areas are the lazy areas of a process, and the fewest spans that cover them.
type areas struct {
	lazy  []span // one for each area, ascending
	spans []span // ascending
}

// set makes a of the areas of a process, in their order.
func (a *areas) set(vmas []pagemap.VMA) {
	a.lazy, a.spans = a.lazy[:0], a.spans[:0]
	open := false // the last span may grow
	for _, v := range vmas {
		switch {
		case !Lazy(v):
			open = open && v.Bytes() <= maxDetour
			continue
		case open:
			a.spans[len(a.spans)-1].end = v.End
		default:
			a.spans = append(a.spans, span{v.Start, v.End})
		}
		open = true
		a.lazy = append(a.lazy, span{v.Start, v.End})
	}
}

// bounds is from the first to the last lazy byte.
func (a *areas) bounds() span {
	if len(a.lazy) == 0 {
		return span{}
	}
	return span{a.lazy[0].start, a.lazy[len(a.lazy)-1].end}
}

// cut cuts the spans into pieces in which each holds about size bytes of lazy
// areas, so that several processors can walk one address space.
func (a *areas) cut(size uint64) []span {
	var pieces []span
	next := 0
	for _, s := range a.spans {
		for s.start < s.end {
			piece := span{s.start, s.end}
			var sum uint64
			for ; next < len(a.lazy) && a.lazy[next].start < s.end; next++ {
				from := max(a.lazy[next].start, piece.start)
				if sum+a.lazy[next].end-from > size {
					piece.end = from + size - sum
					if piece.end == a.lazy[next].end {
						next++
					}
					break
				}
				sum += a.lazy[next].end - from
			}
			pieces = append(pieces, piece)
			s.start = piece.end
		}
	}
	return pieces
}

// within finds the parts of regions that lie in lazy areas. Both ascend. It calls
// add for each part, with the index of its area.
func (a *areas) within(regions []pagemap.Region, add func(area int, part pagemap.Region)) {
	if len(regions) == 0 {
		return
	}
	i := a.after(regions[0].Start)
	for _, r := range regions {
		for i < len(a.lazy) && a.lazy[i].end <= r.Start {
			i++
		}
		for j := i; j < len(a.lazy) && a.lazy[j].start < r.End; j++ {
			add(j, pagemap.Region{Start: max(r.Start, a.lazy[j].start), End: min(r.End, a.lazy[j].end), Categories: r.Categories})
		}
	}
}

// after is the index of the first area that ends after addr.
func (a *areas) after(addr uint64) int {
	lo, hi := 0, len(a.lazy)
	for lo < hi {
		if mid := (lo + hi) / 2; a.lazy[mid].end <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}
