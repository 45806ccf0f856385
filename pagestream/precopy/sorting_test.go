package precopy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream"
)

// pagesIn lists the pages of ranges.
func pagesIn(ranges []pagestream.Range) map[uint64]bool {
	pages := make(map[uint64]bool)
	for _, r := range ranges {
		for a := r.Start; a < r.End(); a += pagestream.PageSize {
			pages[a/pagestream.PageSize] = true
		}
	}
	return pages
}

func rangesOf(pages map[uint64]bool) []pagestream.Range {
	var numbers []uint64
	for p := range pages {
		numbers = append(numbers, p)
	}
	slices.Sort(numbers)
	var ranges []pagestream.Range
	for _, p := range numbers {
		ranges = pagestream.AppendRun(ranges, pagestream.Range{Start: p * pagestream.PageSize, Pages: 1})
	}
	return ranges
}

func TestSortingLosesNoPage(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var s Sorting
		spaces := []pagestream.Space{{Kind: pagestream.Process, ID: 1}, {Kind: pagestream.Process, ID: 2}}
		left := make([]map[uint64]bool, len(spaces))
		written := make([][]map[uint64]bool, len(spaces)) // round by round
		for range 8 {
			var found []Written
			for i, space := range spaces {
				now := make(map[uint64]bool)
				for range rng.IntN(40) {
					now[rng.Uint64N(60)*(1+seed%2*60)] = true // close together, or over several blocks
				}
				written[i] = append(written[i], now)
				dirty := rangesOf(now)
				found = append(found, Written{Space: space, Dirty: pagestream.Union(dirty, rangesOf(left[i])), Written: dirty})
			}
			most := rng.Uint64N(60)
			sent := uint64(0)
			sorted := s.Sort(found, func(uint64) uint64 { return most })
			coldest, hottest := 99, -1 // left behind, sent: by how many rounds found them
			for i, r := range sorted {
				send, hot, behind := pagesIn(r.Send), pagesIn(r.Hot), pagesIn(r.Behind)
				all := pagesIn(found[i].Dirty)
				lost := len(all) - len(left[i])
				if r.Lost != uint64(lost) || r.Before != uint64(len(left[i])) {
					t.Fatalf("seed %d: %d lost of %d, %d left before", seed, r.Lost, len(all), r.Before)
				}
				if len(send)+len(hot)+len(behind) != len(all) || len(pagesIn(r.Left)) != len(hot)+len(behind) {
					t.Fatalf("seed %d: %d sent, %d hot, %d behind of %d", seed, len(send), len(hot), len(behind), len(all))
				}
				for p := range all {
					n, rounds := 0, written[i][max(0, len(written[i])-sortedBy):]
					for _, w := range rounds {
						if w[p] {
							n++
						}
					}
					always := len(rounds) >= hotIn && rounds[len(rounds)-1][p] && rounds[len(rounds)-2][p]
					if hot[p] != always || !hot[p] && !send[p] && !behind[p] {
						t.Fatalf("seed %d: page %d is sent %v, hot %v, behind %v", seed, p, send[p], hot[p], behind[p])
					}
					if send[p] {
						hottest = max(hottest, n)
					}
					if behind[p] {
						coldest = min(coldest, n)
					}
				}
				sent += uint64(len(send))
				left[i] = pagesIn(r.Left)
			}
			if sent > most || hottest > coldest {
				t.Fatalf("seed %d: %d pages sent of at most %d, one written in %d rounds before one written in %d", seed, sent, most, hottest, coldest)
			}
		}
	}
}

func TestPagesOfAFreshProcessAreNeverHot(t *testing.T) {
	var s Sorting
	pages := []pagestream.Range{{Start: 0, Pages: 10}}
	found := Written{Space: pagestream.Space{ID: 1}, Dirty: pages, Written: pages}
	all := func(n uint64) uint64 { return n }
	s.Sort([]Written{found}, all)
	if r := s.Sort([]Written{found}, all)[0]; pagesOf(r.Hot) != 10 {
		t.Errorf("%+v", r)
	}
	found.Fresh = true
	if r := s.Sort([]Written{found}, all)[0]; pagesOf(r.Hot) != 0 || pagesOf(r.Send) != 10 {
		t.Errorf("after an exec: %+v", r)
	}
	found.Fresh = false
	if r := s.Sort([]Written{found}, all)[0]; pagesOf(r.Hot) != 0 {
		t.Errorf("one round after it: %+v", r)
	}
}
