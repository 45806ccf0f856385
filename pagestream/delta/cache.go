package delta

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// DefaultCacheBytes is how much memory a migration's copies take at most. Half of what a
// shim may grow by (64 MiB) is left for hashes of pages and for buffers.
const DefaultCacheBytes = 32 << 20

// Cache holds copies of pages as the destination has them. It is right as long as all pages of
// its spaces are sent through it, none twice in one copy, and each copy is stored at
// the destination before the next begins. Several goroutines may use it at once for
// different pages.
//
// Its memory is mapped at the first page that it keeps, apart from Go's heap: nothing
// looks through it, and what it takes is what was written to.
type Cache struct {
	mu     sync.Mutex // guards what follows; a slot's memory belongs to whoever has its page
	ledger *ledger
	memory []byte // of all slots
	bytes  int
	last   bool // no copy comes after the one under way
	failed bool // there was no memory
}

// NewCache makes a cache of at most so many bytes. Release gives them back.
func NewCache(bytes int) *Cache {
	return &Cache{ledger: newLedger(bytes / pagestream.PageSize), bytes: bytes}
}

// Release forgets all pages. No copy may be under way.
func (c *Cache) Release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger = newLedger(0)
	memory := c.memory
	c.memory = nil
	if memory == nil {
		return nil
	}
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap copies of pages: %w", err)
	}
	return nil
}

// Begin begins a round, which sends no pages but such as written says yes to.
func (c *Cache) Begin(written func(Key) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.begin(written)
}

// Last says that the copy that comes is the last one: the cache is of no use after it, so it
// takes nothing in any more.
func (c *Cache) Last() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = true
}

// Forget forgets the pages of a space.
func (c *Cache) Forget(space pagestream.Space) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.forget(space)
}

// Pages is how many copies the cache holds.
func (c *Cache) Pages() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ledger.slots)
}

// Held lists the pages that have a copy and for which within is true, in no order.
func (c *Cache) Held(within func(Key) bool) []Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	var held []Key
	for k := range c.ledger.slots {
		if within(k) {
			held = append(held, k)
		}
	}
	return held
}

// Measure is how many bytes a page would take if it were sent as it is now: those of its
// record, if they are limit or fewer, and else PageSize.
func (c *Cache) Measure(k Key, page []byte, limit int) int {
	base, _ := c.copyOf(k)
	if base == nil {
		return pagestream.PageSize
	}
	record, ok := Append(nil, base, page, limit)
	if !ok {
		return pagestream.PageSize
	}
	return len(record)
}

// Batch is pages of one space that are sent as deltas. It can be used again.
type Batch struct {
	Runs []pagestream.Range // ascending
	Body []byte             // their records
}

// Pages is how many there are.
func (b *Batch) Pages() uint64 {
	var n uint64
	for _, r := range b.Runs {
		n += r.Pages
	}
	return n
}

func (b *Batch) reset() { b.Runs, b.Body = b.Runs[:0], b.Body[:0] }

// Split puts those pages into batch, which it empties first, whose records have at most limit
// bytes, and moves the others to the front of data and appends their runs to dst; the
// arguments are those of pagestream.PickPages. With a limit of 0 there are no deltas, and
// the copies stay up to date. Of the others it keeps copies, as far as they are worth it
// and admits is true. Both are to be sent before the copy under way ends.
func (c *Cache) Split(space pagestream.Space, runs []pagestream.Range, data []byte, dst []pagestream.Range, limit int, admits bool, batch *Batch) ([]pagestream.Range, []byte) {
	batch.reset()
	if !admits && c.Pages() == 0 {
		return append(dst, runs...), data
	}
	return pagestream.PickPages(runs, data, dst, func(address uint64, page []byte) bool {
		k := Key{space, address}
		base, last := c.copyOf(k)
		if base == nil {
			c.keep(k, page, admits)
			return true
		}
		var ok bool
		if batch.Body, ok = Append(batch.Body, base, page, limit); !ok && limit > HeadSize {
			c.reject(k)
			return true
		}
		if ok {
			batch.Runs = pagestream.AppendRun(batch.Runs, pagestream.Range{Start: address, Pages: 1})
		}
		if !last {
			copy(base, page)
		}
		return !ok
	})
}

// copyOf returns the copy of a page, nil if there is none, and whether this is the last copy.
func (c *Cache) copyOf(k Key) (base []byte, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slot(c.ledger.find(k)), c.last
}

func (c *Cache) slot(n int) []byte {
	if n == noSlot {
		return nil
	}
	at := n * pagestream.PageSize
	return c.memory[at : at+pagestream.PageSize : at+pagestream.PageSize]
}

// keep keeps a copy of a page that has none.
func (c *Cache) keep(k Key, page []byte, admits bool) {
	if !admits {
		return
	}
	c.mu.Lock()
	if c.last || !c.mapped() {
		c.mu.Unlock()
		return
	}
	to := c.slot(c.ledger.admit(k))
	c.mu.Unlock()
	copy(to, page) // nobody else has the page now
}

// mapped sees that the slots have memory. Without it everything is sent whole, as it would be
// without a cache.
func (c *Cache) mapped() bool {
	if c.memory != nil || c.failed || c.ledger.most == 0 {
		return c.memory != nil
	}
	memory, err := unix.Mmap(-1, 0, c.bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	c.memory, c.failed = memory, err != nil
	return err == nil
}

func (c *Cache) reject(k Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slot := c.ledger.find(k); slot != noSlot {
		c.ledger.reject(slot)
	}
}
