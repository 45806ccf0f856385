package pagehash

import (
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
)

// MaxPrivateBytes bounds the memory of all Private tables of this process: 16 bytes for
// each page that was sent more than once, 4 GiB of them.
const MaxPrivateBytes = 16 << 20

// wideBlock is a block of hashes of 128 bits; zero is a page that is not known.
type wideBlock [blockPages]xxh3.Uint128

const maxWideBlocks = MaxPrivateBytes / (blockPages * 16)

// wideBlocks counts the blocks of all Private tables of this process.
var wideBlocks atomic.Int64

// Private remembers what was last sent of the pages of one process, so that a page that
// was written and has the content that it had is not sent again: a lock that was taken and
// given back, a value that was set to what it was.
//
// A hash that two contents have in common would leave the older one at the destination,
// and nobody would notice. So it has 128 bits: after 2^40 comparisons, 4 PiB sent again,
// one of them is wrong with a probability of 2^-88, less than that of memory which flips
// bits unseen. And it has a seed that the pod does not know, so that it cannot look for two
// such contents.
type Private struct {
	seed uint64

	mu     sync.Mutex // guards blocks; an entry belongs to whoever has the page
	blocks map[uint64]*wideBlock
}

// NewPrivate makes a table in which no page is known. Release gives its memory back.
func NewPrivate(seed uint64) *Private {
	return &Private{seed: seed, blocks: make(map[uint64]*wideBlock)}
}

// Release forgets all pages.
func (t *Private) Release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	wideBlocks.Add(-int64(len(t.blocks)))
	clear(t.blocks)
}

// block is as Table's.
func (t *Private) block(number uint64) *wideBlock {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.blocks[number]; b != nil {
		return b
	}
	if wideBlocks.Add(1) > maxWideBlocks {
		wideBlocks.Add(-1)
		return nil
	}
	b := new(wideBlock)
	t.blocks[number] = b
	return b
}

// Changed moves the pages whose content is not what was sent last to the front of data,
// appends their runs to dst, and remembers them as sent; arguments are those of
// pagestream.PickPages. Pages that cannot be remembered are among them.
func (t *Private) Changed(runs []pagestream.Range, data []byte, dst []pagestream.Range) ([]pagestream.Range, []byte) {
	var b *wideBlock
	at := ^uint64(0) // the number of b
	return pagestream.PickPages(runs, data, dst, func(address uint64, content []byte) bool {
		page := address / pagestream.PageSize
		if page/blockPages != at {
			at = page / blockPages
			b = t.block(at)
		}
		if b == nil {
			return true
		}
		hash := xxh3.Hash128Seed(content, t.seed)
		hash.Lo = max(hash.Lo, 1) // no hash is zero
		sent := b[page%blockPages] == hash
		b[page%blockPages] = hash
		return !sent
	})
}
