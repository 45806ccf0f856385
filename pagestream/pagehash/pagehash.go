// Package pagehash remembers what was last sent of the pages of shared memory
// by a hash of each, so that pages that did not change are not sent again. No
// tracker sees every write to shared memory, and CRIU dumps it whole; what is
// to be sent, and when, is for the callers to say.
package pagehash

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
)

// MaxBytes bounds the memory of all tables of this process: 8 bytes for each
// page of 4 KiB, enough for 12 GiB of shared memory.
const MaxBytes = 24 << 20

// blockPages is how many hashes are allocated together.
const blockPages = 512

// block holds the hashes of pages that follow each other, 4 KiB of them; 0 is
// a page that was not sent.
type block [blockPages]uint64

// blocks counts the blocks of all tables of this process.
var blocks atomic.Int64

const maxBlocks = MaxBytes / (blockPages * 8)

// Table remembers what was last sent of each page of one shared memory object.
// The object may be sparse, so memory comes as it is needed. Several goroutines
// may use a table at once, but never for the same page.
type Table struct {
	seed uint64

	mu     sync.Mutex // guards blocks; an entry belongs to whoever has the page
	blocks map[uint64]*block
}

// NewSeed makes a seed for tables. It must not be known to who writes the
// memory: with it, two contents of one hash can be found.
func NewSeed() (uint64, error) {
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return 0, fmt.Errorf("seed of page hashes: %w", err)
	}
	return binary.NativeEndian.Uint64(seed[:]), nil
}

// New makes a table in which no page was sent. Release gives its memory back.
func New(seed uint64) *Table {
	return &Table{seed: seed, blocks: make(map[uint64]*block)}
}

// Release forgets all pages.
func (t *Table) Release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	blocks.Add(-int64(len(t.blocks)))
	clear(t.blocks)
}

// Forget makes the pages of r pages that were not sent.
func (t *Table) Forget(r pagestream.Range) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first, end := r.Start/pagestream.PageSize, r.End()/pagestream.PageSize
	for number, b := range t.blocks {
		from := max(first, number*blockPages)
		to := min(end, (number+1)*blockPages)
		if from < to {
			clear(b[from-number*blockPages : to-number*blockPages])
		}
	}
}

// block returns the block of a number, and nil if there is none and none may
// be had any more.
func (t *Table) block(number uint64) *block {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.blocks[number]; b != nil {
		return b
	}
	if blocks.Add(1) > maxBlocks {
		blocks.Add(-1)
		return nil
	}
	b := new(block)
	t.blocks[number] = b
	return b
}

// Ahead moves the pages whose content is not what was sent last to the front
// of data, appends their runs to dst, and remembers them as sent; arguments are
// those of pagestream.PickPages. A page that cannot be remembered is not among
// them, as it would be sent again at the end.
func (t *Table) Ahead(runs []pagestream.Range, data []byte, dst []pagestream.Range) ([]pagestream.Range, []byte) {
	return t.sift(runs, data, dst, false)
}

// Last is Ahead for the last copy: the pages that cannot be remembered are
// among those that are left.
func (t *Table) Last(runs []pagestream.Range, data []byte, dst []pagestream.Range) ([]pagestream.Range, []byte) {
	return t.sift(runs, data, dst, true)
}

func (t *Table) sift(runs []pagestream.Range, data []byte, dst []pagestream.Range, unremembered bool) ([]pagestream.Range, []byte) {
	var b *block
	at := ^uint64(0) // the number of b
	return pagestream.PickPages(runs, data, dst, func(address uint64, content []byte) bool {
		page := address / pagestream.PageSize
		if page/blockPages != at {
			at = page / blockPages
			b = t.block(at)
		}
		if b == nil {
			return unremembered
		}
		hash := max(xxh3.HashSeed(content, t.seed), 1)
		sent := b[page%blockPages] == hash
		b[page%blockPages] = hash
		return !sent
	})
}
