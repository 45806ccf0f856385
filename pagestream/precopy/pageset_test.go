package precopy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestPageSetHasThePagesOfItsRanges(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var ranges []pagestream.Range
		for at := rng.Uint64N(1 << 40); len(ranges) < rng.IntN(50); at += 1 + rng.Uint64N(3000) {
			r := pagestream.Range{Start: at * pagestream.PageSize, Pages: 1 + rng.Uint64N(1<<rng.Uint64N(12))}
			ranges = pagestream.AppendRun(ranges, r)
			at += r.Pages
		}
		var back []pagestream.Range
		set := setOf(ranges)
		for i, b := range set {
			if i > 0 && set[i-1].first >= b.first || b.bits == noBits {
				t.Fatalf("seed %d: block %d has %v and begins at %d", seed, i, b.bits, b.first)
			}
			for w, word := range b.bits {
				back = appendBits(back, b.first*blockPages+uint64(w)*64, word)
			}
		}
		if !slices.Equal(back, ranges) {
			t.Fatalf("seed %d: %v became %v", seed, ranges, back)
		}
	}
}

func TestFirstOfAWord(t *testing.T) {
	for _, c := range []struct{ word, most, want uint64 }{
		{0b101100, 0, 0}, {0b101100, 1, 0b100}, {0b101100, 2, 0b1100}, {0b101100, 9, 0b101100}, {^uint64(0), 64, ^uint64(0)}, {0, 3, 0},
	} {
		if got := firstOf(c.word, c.most); got != c.want {
			t.Errorf("the first %d of %b: %b, want %b", c.most, c.word, got, c.want)
		}
	}
}
