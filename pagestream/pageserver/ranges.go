package pageserver

import (
	"sort"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// Ranges here ascend, do not overlap and do not touch: a set of pages.

// subtract returns the pages of a that are not in b.
func subtract(a, b []pagestream.Range) []pagestream.Range {
	var left []pagestream.Range
	for _, r := range a {
		c := cursor{ranges: b}
		c.seek(r.Start)
		left = c.missing(left, r)
		b = b[c.at:]
	}
	return left
}

// union returns the pages of both.
func union(a, b []pagestream.Range) []pagestream.Range {
	if len(b) == 0 {
		return a
	}
	var all []pagestream.Range
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].Start <= b[0].Start {
			all = pagestream.AppendRun(all, a[0])
			a = a[1:]
		} else {
			all = pagestream.AppendRun(all, b[0])
			b = b[1:]
		}
	}
	return all
}

// cursor asks a set about ranges that ascend, in time that does not grow with
// the set.
type cursor struct {
	ranges []pagestream.Range
	at     int // the ranges before it end at or before what was asked last
}

// seek finds the first range that ends after an address at once.
func (c *cursor) seek(address uint64) {
	c.at += sort.Search(len(c.ranges)-c.at, func(i int) bool { return c.ranges[c.at+i].End() > address })
}

// missing appends the pages of r that are not in the set. r starts at or after
// the end of the range asked before.
func (c *cursor) missing(dst []pagestream.Range, r pagestream.Range) []pagestream.Range {
	from, end := r.Start, r.End()
	for from < end {
		for c.at < len(c.ranges) && c.ranges[c.at].End() <= from {
			c.at++
		}
		if c.at == len(c.ranges) || c.ranges[c.at].Start >= end {
			return pagestream.AppendRun(dst, between(from, end))
		}
		have := c.ranges[c.at]
		if have.Start > from {
			dst = pagestream.AppendRun(dst, between(from, have.Start))
		}
		from = have.End()
	}
	return dst
}

func between(from, end uint64) pagestream.Range {
	return pagestream.Range{Start: from, Pages: (end - from) / pagestream.PageSize}
}

// chosen are the ranges of the entries for which keep is true.
func chosen(entries []images.Entry, keep func(images.Entry) bool) []pagestream.Range {
	var set []pagestream.Range
	for _, e := range entries {
		if keep(e) {
			set = pagestream.AppendRun(set, e.Range())
		}
	}
	return set
}

// pagesOf counts the pages of ranges.
func pagesOf(ranges []pagestream.Range) uint64 {
	var n uint64
	for _, r := range ranges {
		n += r.Pages
	}
	return n
}
