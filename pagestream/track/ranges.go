package track

import (
	"cmp"

	"godwit.dev/godwit/pagestream"
)

func compareStarts(a, b pagestream.Range) int { return cmp.Compare(a.Start, b.Start) }

// appendRange appends a range that does not start before the last of dst; ranges
// that touch or overlap become one.
func appendRange(dst []pagestream.Range, r pagestream.Range) []pagestream.Range {
	if n := len(dst); n > 0 && dst[n-1].End() >= r.Start {
		if r.End() > dst[n-1].End() {
			dst[n-1].Pages = (r.End() - dst[n-1].Start) / pagestream.PageSize
		}
		return dst
	}
	return append(dst, r)
}

// mergeOverlaps makes ranges that ascend by their starts disjoint, in place.
func mergeOverlaps(ranges []pagestream.Range) []pagestream.Range {
	if len(ranges) == 0 {
		return ranges
	}
	merged := ranges[:1]
	for _, r := range ranges[1:] {
		merged = appendRange(merged, r)
	}
	return merged
}

// pagesOf counts the pages of disjoint ranges.
func pagesOf(ranges []pagestream.Range) (pages uint64) {
	for _, r := range ranges {
		pages += r.Pages
	}
	return pages
}

// clip returns the parts of disjoint, ascending ranges that lie in lazy areas.
func (a *areas) clip(ranges []pagestream.Range) []pagestream.Range {
	var in []pagestream.Range
	for _, r := range ranges {
		for i := a.after(r.Start); i < len(a.lazy) && a.lazy[i].start < r.End(); i++ {
			start, end := max(r.Start, a.lazy[i].start), min(r.End(), a.lazy[i].end)
			in = appendRange(in, pagestream.Range{Start: start, Pages: (end - start) / pagestream.PageSize})
		}
	}
	return in
}
