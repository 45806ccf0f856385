package track

import (
	"maps"
	"math/rand/v2"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestUnionIsAllPagesOfBoth(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	random := func() (list []pagestream.Range, pages map[uint64]bool) {
		pages = map[uint64]bool{}
		at := uint64(0)
		for range rng.IntN(6) {
			at += uint64(1 + rng.IntN(4))
			n := uint64(1 + rng.IntN(4))
			list = append(list, pagestream.Range{Start: at * page, Pages: n})
			for ; n > 0; n-- {
				pages[at] = true
				at++
			}
		}
		return list, pages
	}
	for range 5000 {
		a, want := random()
		b, more := random()
		maps.Copy(want, more)
		got := pagestream.Union(a, b)
		if pagesOf(got) != uint64(len(want)) {
			t.Fatalf("%v and %v: %v has %d pages, want %d", a, b, got, pagesOf(got), len(want))
		}
		var end uint64
		for _, r := range got {
			if r.Start <= end && end != 0 {
				t.Fatalf("%v and %v: %v", a, b, got)
			}
			end = r.End()
			for p := r.Start / page; p < r.End()/page; p++ {
				if !want[p] {
					t.Fatalf("%v and %v: %v", a, b, got)
				}
			}
		}
	}
}
