package store

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// What was looked up before is not what counts when pages have come since.
func TestASettledStoreIsSealedAsItIs(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		s := newStore(t, 64<<20)
		const pages = 4 * chunkPages
		for range 200 {
			page, n := r.Uint64N(pages), 1+r.Uint64N(40)
			switch r.IntN(5) {
			case 0:
				must(t, s.Zero(proc(1), page*pageSize, n*r.Uint64N(30)+1))
			case 1:
				must(t, s.Settle())
			default:
				must(t, s.Pages(proc(1), page*pageSize, content(page, int(n))))
			}
		}
		sp, err := s.lookup(proc(1))
		must(t, err)
		got := sp.sealedRuns()
		for k, c := range sp.index.chunks {
			known := 0
			for _, e := range c.entries {
				if e != 0 {
					known++
				}
			}
			if known != c.known {
				t.Fatalf("chunk %d counts %d pages of %d", k, c.known, known)
			}
			if c != allZero {
				c.parts = nil
			}
		}
		sp.index.sorted, sp.index.unsorted = nil, slices.Collect(maps.Keys(sp.index.chunks))
		if want := sp.sealedRuns(); !bytes.Equal(got, want) {
			t.Fatalf("with what was looked up before: %d bytes of runs; anew: %d", len(got), len(want))
		}
	}
}

func TestAPageThatComesAgainIsNotLookedUpAgain(t *testing.T) {
	s := newStore(t, 4<<20)
	must(t, s.Pages(proc(1), 0, content(1, chunkPages)))
	must(t, s.Settle())
	must(t, s.Pages(proc(1), 5*pageSize, content(2, 1)))
	sp, err := s.lookup(proc(1))
	must(t, err)
	if sp.index.chunks[0].parts == nil {
		t.Error("the chunk is to be looked at again, though its page has its place")
	}
	must(t, s.Seal())
	if err := s.Settle(); !errors.Is(err, ErrState) {
		t.Errorf("of a sealed store: %v", err)
	}
	if _, err := OpenContainer(s.Dir(), 0); err != nil {
		t.Error(err)
	}
}

func TestMorePartsThanAreKeptAreLookedUpAgain(t *testing.T) {
	s := newStore(t, 4<<20)
	for i := range uint64(2 * (maxParts + 1)) {
		must(t, s.Pages(proc(1), 2*i*pageSize, content(i, 1)))
	}
	must(t, s.Settle())
	sp, err := s.lookup(proc(1))
	must(t, err)
	if sp.index.chunks[0].parts != nil {
		t.Errorf("%d parts of a chunk are kept", len(sp.index.chunks[0].parts))
	}
	if n := len(sp.sealedRuns()) / runSize; n != 2*(maxParts+1) {
		t.Errorf("%d runs", n)
	}
}
