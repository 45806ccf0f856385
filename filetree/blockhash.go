package filetree

import (
	"bytes"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// blockSize is the unit in which a file's content is compared with what was sent of it.
const blockSize = 64 << 10

const (
	zeroHash    = uint64(0)  // of a block of zeros, and of one that is beyond the end
	unknownHash = ^uint64(0) // of no content: compares unequal to every block
)

var zeros [blockSize]byte

// hashBlock is the xxh3 of a block, zeroHash if there are only zeros in it, never unknownHash.
func hashBlock(b []byte) uint64 {
	if b[0] == 0 && bytes.Equal(b, zeros[:len(b)]) {
		return zeroHash
	}
	h := xxh3.Hash(b)
	if h == zeroHash || h == unknownHash {
		return 1
	}
	return h
}

// hashBudget bounds the memory of all blockHashes of one Source.
type hashBudget struct {
	limit, used atomic.Int64 // bytes
}

// take adds to the budget's use, unless that would exceed it.
func (b *hashBudget) take(bytes int64) bool {
	if b.used.Add(bytes) <= b.limit.Load() {
		return true
	}
	b.used.Add(-bytes)
	return false
}

const pageBlocks = 512 // blocks whose hashes are allocated together, 32 MiB of content

// blockHashes remembers the content that the destination has of one file, eight bytes for each block that is not zero
// and lies in the same 32 MiB as one. If the budget is spent it forgets all, and then every block compares unequal.
type blockHashes struct {
	first []uint64           // of page 0, as long as needed
	more  map[int64][]uint64 // of the other pages that have a block that is not zero
	lost  bool
}

func (h *blockHashes) get(block int64) uint64 {
	if h.lost {
		return unknownHash
	}
	page := h.first
	if block >= pageBlocks {
		page = h.more[block/pageBlocks]
		block %= pageBlocks
	}
	if block >= int64(len(page)) {
		return zeroHash
	}
	return page[block]
}

func (h *blockHashes) set(budget *hashBudget, block int64, hash uint64) {
	if h.lost || hash == zeroHash && h.get(block) == zeroHash {
		return
	}
	number, index := block/pageBlocks, block%pageBlocks
	page := h.first
	if number > 0 {
		page = h.more[number]
	}
	if index >= int64(len(page)) {
		grown := h.grow(budget, page, index)
		if grown == nil {
			h.forget(budget)
			return
		}
		page = grown
		if number == 0 {
			h.first = page
		} else {
			if h.more == nil {
				h.more = make(map[int64][]uint64)
			}
			h.more[number] = page
		}
	}
	page[index] = hash
}

// grow returns a page that reaches to index: just that for the first page, which is all that a small file has.
func (h *blockHashes) grow(budget *hashBudget, page []uint64, index int64) []uint64 {
	length := min(max(index+1, 2*int64(len(page))), pageBlocks)
	if !budget.take(8 * (length - int64(len(page)))) {
		return nil
	}
	grown := make([]uint64, length)
	copy(grown, page)
	return grown
}

func (h *blockHashes) size() int64 {
	n := int64(len(h.first))
	for _, page := range h.more {
		n += int64(len(page))
	}
	return 8 * n
}

// forget gives the memory back; every block is unknown from now on.
func (h *blockHashes) forget(budget *hashBudget) {
	budget.take(-h.size())
	*h = blockHashes{lost: true}
}

// truncate notes that the file now ends at size: what was behind is zeros, should it ever grow again.
func (h *blockHashes) truncate(budget *hashBudget, size int64) {
	if h.lost {
		return
	}
	if size == 0 {
		budget.take(-h.size())
		*h = blockHashes{}
		return
	}
	if size%blockSize != 0 && h.get(size/blockSize) != zeroHash {
		h.set(budget, size/blockSize, unknownHash)
	}
	whole := (size + blockSize - 1) / blockSize
	if whole < int64(len(h.first)) {
		clear(h.first[whole:])
	}
	for number, page := range h.more {
		switch start := number * pageBlocks; {
		case start >= whole:
			budget.take(-8 * int64(len(page)))
			delete(h.more, number)
		case whole-start < int64(len(page)):
			clear(page[whole-start:])
		}
	}
}

// nextUsed returns the first block from `from` on, below `end`, that is not known to be zero, or end.
func (h *blockHashes) nextUsed(from, end int64) int64 {
	for b := from; b < end; {
		if h.get(b) != zeroHash {
			return b
		}
		if h.pageEmpty(b / pageBlocks) {
			b = (b/pageBlocks + 1) * pageBlocks
			continue
		}
		b++
	}
	return end
}

func (h *blockHashes) pageEmpty(number int64) bool {
	if number == 0 {
		return len(h.first) == 0
	}
	return len(h.more[number]) == 0
}
