package lazy

import (
	"math/bits"
	"slices"
)

// bitmap has a bit for each page of a source: done, that is in place or no longer
// wanted.
type bitmap struct {
	words []uint64
	left  uint64 // bits that are not set
}

func newBitmap(n uint64) bitmap {
	return bitmap{words: make([]uint64, (n+63)/64), left: n}
}

func (b *bitmap) clone() bitmap { return bitmap{slices.Clone(b.words), b.left} }

// has says whether a bit is set.
func (b *bitmap) has(i uint64) bool { return b.words[i/64]&(1<<(i%64)) != 0 }

// set sets n bits.
func (b *bitmap) set(first, n uint64) {
	for end := first + n; first < end; {
		i, k := first%64, min(64-first%64, end-first)
		mask := (^uint64(0) >> (64 - k)) << i
		w := &b.words[first/64]
		b.left -= uint64(bits.OnesCount64(mask &^ *w))
		*w |= mask
		first += k
	}
}

// add sets the bits that another bitmap of the same size has.
func (b *bitmap) add(other bitmap) {
	for i, w := range other.words {
		b.left -= uint64(bits.OnesCount64(w &^ b.words[i]))
		b.words[i] |= w
	}
}

// next returns the first bit from i on that is not set, or end.
func (b *bitmap) next(i, end uint64) uint64 {
	for i < end {
		if free := ^b.words[i/64] >> (i % 64); free != 0 {
			return min(i+uint64(bits.TrailingZeros64(free)), end)
		}
		i = (i/64 + 1) * 64
	}
	return end
}

// run returns how many bits from i on, which is not set, are not set, up to end.
func (b *bitmap) run(i, end uint64) uint64 {
	for j := i; j < end; {
		if set := b.words[j/64] >> (j % 64); set != 0 {
			return min(j+uint64(bits.TrailingZeros64(set)), end) - i
		}
		j = (j/64 + 1) * 64
	}
	return end - i
}
