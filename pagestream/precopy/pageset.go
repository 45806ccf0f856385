package precopy

import (
	"math/bits"

	"godwit.dev/godwit/pagestream"
)

// A block is 512 pages, a bit for each: 2 MiB of addresses.
const (
	blockPages = 512
	blockWords = blockPages / 64
)

type blockBits [blockWords]uint64

// block is the pages of a set among blockPages that begin at first*blockPages.
type block struct {
	first uint64
	bits  blockBits
}

// pageSet is a set of pages: the blocks that have any, in order.
type pageSet []block

// setOf is the set of the pages of ranges, which ascend.
func setOf(ranges []pagestream.Range) pageSet {
	if len(ranges) == 0 {
		return nil
	}
	last := ranges[len(ranges)-1]
	span := (last.End()-ranges[0].Start)/(blockPages*pagestream.PageSize) + 2
	set := make(pageSet, 0, min(span, uint64(len(ranges))))
	for _, r := range ranges {
		page, left := r.Start/pagestream.PageSize, r.Pages
		for left > 0 {
			first, at := page/blockPages, page%blockPages
			if n := len(set); n == 0 || set[n-1].first != first {
				set = append(set, block{first: first})
			}
			n := min(left, blockPages-at)
			set[len(set)-1].bits.fill(at, n)
			page, left = page+n, left-n
		}
	}
	return set
}

// fill sets n bits from the one at on.
func (b *blockBits) fill(at, n uint64) {
	for n > 0 {
		word, from := at/64, at%64
		k := min(n, 64-from)
		b[word] |= (^uint64(0) >> (64 - k)) << from
		at, n = at+k, n-k
	}
}

// blockReader finds the blocks of a set, which are asked for in order.
type blockReader struct{ set pageSet }

var noBits blockBits

func (r *blockReader) at(first uint64) *blockBits {
	for len(r.set) > 0 && r.set[0].first < first {
		r.set = r.set[1:]
	}
	if len(r.set) == 0 || r.set[0].first != first {
		return &noBits
	}
	return &r.set[0].bits
}

// appendBits appends the pages of a word of bits, the first of which is page.
func appendBits(ranges []pagestream.Range, page, word uint64) []pagestream.Range {
	for word != 0 {
		skip := uint64(bits.TrailingZeros64(word))
		n := uint64(bits.TrailingZeros64(^(word >> skip)))
		ranges = pagestream.AppendRun(ranges, pagestream.Range{Start: (page + skip) * pagestream.PageSize, Pages: n})
		if skip+n == 64 {
			break
		}
		word = word >> (skip + n) << (skip + n)
	}
	return ranges
}

// firstOf keeps the first bits of a word, most at most.
func firstOf(word, most uint64) uint64 {
	rest := word
	for ; most > 0 && rest != 0; most-- {
		rest &= rest - 1
	}
	return word &^ rest
}

func count(word uint64) uint64 { return uint64(bits.OnesCount64(word)) }
