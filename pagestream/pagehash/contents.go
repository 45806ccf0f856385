package pagehash

import (
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// Hash is what a content of a page is known by. It has 128 bits for the reason that Private's have: two
// contents of one hash would be taken for the same, and nobody would notice.
type Hash struct{ sum xxh3.Uint128 }

// Contents gives each content of pages a number, in the order in which they come, from 0 on. It may be used
// concurrently.
type Contents struct {
	seed uint64
	left *atomic.Int64 // how many more there may be, also of other tables

	mu      sync.Mutex // guards numbers
	numbers map[Hash]uint32
}

// NewContents makes a table that takes its numbers from left, which it may have in common with others.
func NewContents(seed uint64, left *atomic.Int64) *Contents {
	return &Contents{seed: seed, left: left, numbers: make(map[Hash]uint32)}
}

// Hash is that of a page.
func (c *Contents) Hash(page []byte) Hash { return Hash{xxh3.Hash128Seed(page, c.seed)} }

// Knows says whether a content has a number.
func (c *Contents) Knows(h Hash) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.numbers[h]
	return known
}

// Number is the number of a content, which is fresh if it has been given just now. It is not ok if it has none and there are no more.
func (c *Contents) Number(h Hash) (number uint32, fresh, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if number, known := c.numbers[h]; known {
		return number, false, true
	}
	if c.left.Add(-1) < 0 {
		c.left.Add(1)
		return 0, false, false
	}
	number = uint32(len(c.numbers))
	c.numbers[h] = number
	return number, true, true
}
