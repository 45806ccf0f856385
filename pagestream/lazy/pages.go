package lazy

import (
	"math/bits"
	"sync/atomic"
)

// pageSource says which pages of a process can be filled in now, by their numbers among
// all its pages. Where they are is the pieces' to say: what comes late comes to its place
// in the store.
type pageSource interface {
	// next is the first page from i on that is here, end if there is none before.
	next(i, end uint64) uint64
	// run is how many pages from i on, which is here, are here, up to end.
	run(i, end uint64) uint64
	// want has a page brought that is not here: a process waits for it.
	want(i uint64)
	// forget is told that nobody wants some pages any more.
	forget(first, n uint64)
}

// local is a store that has all pages.
type local struct{}

func (local) next(i, end uint64) uint64 { return min(i, end) }
func (local) run(i, end uint64) uint64  { return end - i }
func (local) want(uint64)               {}
func (local) forget(uint64, uint64)     {}

// presence has a bit for each page of a source that is here. One goroutine sets bits while
// another looks.
type presence []uint64

// newPresence is that of n pages that are all here.
func newPresence(n uint64) presence {
	p := make(presence, (n+63)/64)
	for i := range p {
		p[i] = ^uint64(0)
	}
	return p
}

// clear makes pages missing; nobody else uses p yet.
func (p presence) clear(first, n uint64) {
	for i := first; i < first+n; i++ {
		p[i/64] &^= 1 << (i % 64)
	}
}

func (p presence) has(i uint64) bool { return atomic.LoadUint64(&p[i/64])&(1<<(i%64)) != 0 }

// set says that a page is here, and whether it was not before.
func (p presence) set(i uint64) bool {
	return atomic.OrUint64(&p[i/64], 1<<(i%64))&(1<<(i%64)) == 0
}

// find returns the first page from i on whose bit is 1, or 0, end if there is none before.
func (p presence) find(i, end uint64, here bool) uint64 {
	for i < end {
		w := atomic.LoadUint64(&p[i/64])
		if !here {
			w = ^w
		}
		if w >>= i % 64; w != 0 {
			return min(i+uint64(bits.TrailingZeros64(w)), end)
		}
		i = (i/64 + 1) * 64
	}
	return end
}

func (p presence) next(i, end uint64) uint64 { return p.find(i, end, true) }

func (p presence) run(i, end uint64) uint64 { return p.find(i, end, false) - i }
