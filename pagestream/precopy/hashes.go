package precopy

import (
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
)

// maxHashBytes bounds the memory of all page hashes of this process: enough
// for 12 GiB of shared memory.
const maxHashBytes = 24 << 20

// blockPages is how many hashes are allocated together.
const blockPages = 512

// block holds the hashes of pages that follow each other, 4 KiB of them; 0 is
// a page that was not sent.
type block [blockPages]uint64

// hashBlocks counts the blocks of all hashes of this process.
var hashBlocks atomic.Int64

const maxHashBlocks = maxHashBytes / (blockPages * 8)

// hashes remembers what was last sent of each page of a segment. A segment may
// be sparse, so blocks come as they are needed.
type hashes struct {
	seed uint64

	mu     sync.Mutex // guards blocks; an entry belongs to the worker that has the page
	blocks map[uint64]*block
}

func newHashes(seed uint64) *hashes {
	return &hashes{seed: seed, blocks: make(map[uint64]*block)}
}

// release gives the blocks back.
func (h *hashes) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	hashBlocks.Add(-int64(len(h.blocks)))
	clear(h.blocks)
}

// block returns the block of a number, and nil if there is none and none may
// be had any more.
func (h *hashes) block(number uint64) *block {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.blocks[number]; b != nil {
		return b
	}
	if hashBlocks.Add(1) > maxHashBlocks {
		hashBlocks.Add(-1)
		return nil
	}
	b := new(block)
	h.blocks[number] = b
	return b
}

// ahead is the siftFunc of a copy made ahead: it leaves the pages whose
// content is not what was sent last. A page that cannot be remembered is not
// sent now, as it would be sent again at the end.
func (h *hashes) ahead(runs []pagestream.Range, data []byte, dst []pagestream.Range) ([]pagestream.Range, []byte) {
	return h.sift(runs, data, dst, false)
}

// last is the siftFunc of the last copy: as ahead, with the pages that cannot
// be remembered.
func (h *hashes) last(runs []pagestream.Range, data []byte, dst []pagestream.Range) ([]pagestream.Range, []byte) {
	return h.sift(runs, data, dst, true)
}

func (h *hashes) sift(runs []pagestream.Range, data []byte, dst []pagestream.Range, unremembered bool) ([]pagestream.Range, []byte) {
	var b *block
	at := ^uint64(0) // the number of b
	return pick(runs, data, dst, func(address uint64, content []byte) bool {
		page := address / pagestream.PageSize
		if page/blockPages != at {
			at = page / blockPages
			b = h.block(at)
		}
		if b == nil {
			return unremembered
		}
		hash := max(xxh3.HashSeed(content, h.seed), 1)
		sent := b[page%blockPages] == hash
		b[page%blockPages] = hash
		return !sent
	})
}
