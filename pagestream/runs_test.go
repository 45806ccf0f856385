package pagestream

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestRangesAsSets(t *testing.T) {
	const pages = 40
	rng := rand.New(rand.NewPCG(1, 1))
	set := func() (in [pages]bool, ranges []Range) {
		for p := range in {
			if in[p] = rng.IntN(3) == 0; in[p] {
				ranges = AppendRun(ranges, Range{Start: uint64(p) * PageSize, Pages: 1})
			}
		}
		return in, ranges
	}
	for range 5000 {
		inA, a := set()
		inB, b := set()
		most := rng.Uint64N(pages)
		var union, both, left, first []Range
		n := uint64(0)
		for p := range uint64(pages) {
			r := Range{Start: p * PageSize, Pages: 1}
			if got := Contains(a, r.Start+PageSize/2); got != inA[p] {
				t.Fatalf("%v contains page %d: %v", a, p, got)
			}
			if inA[p] || inB[p] {
				union = AppendRun(union, r)
			}
			if inA[p] && inB[p] {
				both = AppendRun(both, r)
			}
			if inA[p] && !inB[p] {
				left = AppendRun(left, r)
			}
			if inA[p] && n < most {
				first = AppendRun(first, r)
				n++
			}
		}
		for name, c := range map[string][2][]Range{
			"union": {Union(a, b), union}, "intersect": {Intersect(a, b), both}, "subtract": {Subtract(a, b), left}, "first": {First(a, most), first},
		} {
			if !slices.Equal(c[0], c[1]) {
				t.Fatalf("%s of %v and %v, %d: %v, want %v", name, a, b, most, c[0], c[1])
			}
		}
	}
}
