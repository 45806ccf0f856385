package pagestream

import "sort"

// AppendRun adds r to runs, which ascend. r starts at or after the start of
// the last run; where it touches or overlaps that, the two become one.
func AppendRun(runs []Range, r Range) []Range {
	if r.Pages == 0 {
		return runs
	}
	if n := len(runs); n > 0 && r.Start <= runs[n-1].End() {
		last := &runs[n-1]
		if r.End() > last.End() {
			last.Pages = (r.End() - last.Start) / PageSize
		}
		return runs
	}
	return append(runs, r)
}

// PickPages moves the pages for which keep is true to the front of data, which
// holds the pages of runs one after the other, and appends their runs to dst,
// which must not share memory with runs. keep is called once for each page, in
// order.
func PickPages(runs []Range, data []byte, dst []Range, keep func(address uint64, page []byte) bool) ([]Range, []byte) {
	read, kept := 0, 0
	for _, r := range runs {
		for address := r.Start; address < r.End(); address += PageSize {
			page := data[read : read+PageSize]
			read += PageSize
			if !keep(address, page) {
				continue
			}
			if read-PageSize != kept {
				copy(data[kept:], page)
			}
			kept += PageSize
			dst = AppendRun(dst, Range{Start: address, Pages: 1})
		}
	}
	return dst, data[:kept]
}

// Union is all pages of two lists of disjoint, ascending ranges. It may be one of
// them.
func Union(a, b []Range) []Range {
	switch {
	case len(b) == 0:
		return a
	case len(a) == 0:
		return b
	}
	both := make([]Range, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].Start <= b[0].Start {
			both, a = AppendRun(both, a[0]), a[1:]
		} else {
			both, b = AppendRun(both, b[0]), b[1:]
		}
	}
	for _, r := range a {
		both = AppendRun(both, r)
	}
	for _, r := range b {
		both = AppendRun(both, r)
	}
	return both
}

// First is the first pages of disjoint, ascending ranges, so many at most.
func First(ranges []Range, most uint64) []Range {
	for i, r := range ranges {
		if r.Pages >= most {
			first := append([]Range(nil), ranges[:i]...)
			return AppendRun(first, Range{Start: r.Start, Pages: most})
		}
		most -= r.Pages
	}
	return ranges
}

// Intersect is the pages that are in both of two lists of disjoint, ascending
// ranges.
func Intersect(a, b []Range) []Range {
	var both []Range
	for len(a) > 0 && len(b) > 0 {
		start, end := max(a[0].Start, b[0].Start), min(a[0].End(), b[0].End())
		if start < end {
			both = AppendRun(both, Range{Start: start, Pages: (end - start) / PageSize})
		}
		if a[0].End() <= b[0].End() {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return both
}

// Subtract is the pages of a that are not in b, both lists of disjoint, ascending
// ranges.
func Subtract(a, b []Range) []Range {
	if len(b) == 0 {
		return a
	}
	var left []Range
	for _, r := range a {
		at := r.Start
		for len(b) > 0 && b[0].End() <= at {
			b = b[1:]
		}
		for i := 0; i < len(b) && b[i].Start < r.End(); i++ {
			if b[i].Start > at {
				left = AppendRun(left, Range{Start: at, Pages: (b[i].Start - at) / PageSize})
			}
			at = max(at, b[i].End())
		}
		if at < r.End() {
			left = AppendRun(left, Range{Start: at, Pages: (r.End() - at) / PageSize})
		}
	}
	return left
}

// Contains says whether an address is in disjoint, ascending ranges.
func Contains(ranges []Range, address uint64) bool {
	i := sort.Search(len(ranges), func(i int) bool { return ranges[i].End() > address })
	return i < len(ranges) && ranges[i].Start <= address
}
