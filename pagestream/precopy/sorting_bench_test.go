package precopy

import (
	"math/rand/v2"
	"testing"

	"godwit.dev/godwit/pagestream"
)

// scattered are n pages of 4 GiB, one here and one there.
func scattered(rng *rand.Rand, n int) []pagestream.Range {
	pages := make(map[uint64]bool, n)
	for len(pages) < n {
		pages[rng.Uint64N(4<<30/pagestream.PageSize)] = true
	}
	return rangesOf(pages)
}

func BenchmarkSorting(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	space := pagestream.Space{Kind: pagestream.Process, ID: 1}
	rounds := make([][]pagestream.Range, sortedBy)
	for i := range rounds {
		rounds[i] = scattered(rng, 200_000)
	}
	half := func(dirty uint64) uint64 { return dirty / 2 }
	var s Sorting
	for i := 0; b.Loop(); i++ {
		w := rounds[i%len(rounds)]
		s.Sort([]Written{{Space: space, Dirty: w, Written: w}}, half)
	}
	b.ReportAllocs()
}
