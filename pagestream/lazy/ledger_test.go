package lazy

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream/store"
)

// scattered is a source whose pages lie here and there in a store of so many units: some are
// zero, some in CRIU's own files, some places in the store are nobody's.
func scattered(r *rand.Rand, units uint64) *source {
	s := &source{}
	free := make([]uint64, 0, 8*units)
	for slot := uint64(0); slot+8 <= units*store.GiveUnit; slot += 8 {
		free = append(free, slot)
	}
	r.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	for img := uint64(0x10000); len(free) > 0; img += 8 * pageSize {
		n := 1 + r.Uint64N(8)
		switch r.IntN(8) {
		case 0:
			s.add(img, n, nil)
		case 1:
			s.add(img, n, make([]byte, n*pageSize))
		case 2:
			free = free[1:] // of a page that the source gave up
		default:
			s.add(img, n, make([]byte, n*pageSize))
			p := &s.pieces[len(s.pieces)-1]
			p.stored, p.slot = true, free[0]
			free = free[1:]
		}
	}
	return s
}

// slotOf is where a page is in the store; false if it is not there.
func (s *source) slotOf(page uint64) (uint64, bool) {
	p := s.pieces[s.pieceOf(page)]
	return p.slot + page - p.first, p.stored
}

// A unit is spare, once, when all of its pages are done in all memories, and never before.
func TestAUnitIsSpareWhenTheLastMemoryHasItsPages(t *testing.T) {
	const units = 20
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 1))
		src := scattered(r, units)
		l := newLedger(src, units, func(uint64) bool { return false })
		newMemory := func() *memory { return &memory{source: src, done: newBitmap(src.pages)} }
		src.giver = &giver{ledger: l}
		memories := []*memory{newMemory()}
		given := make(map[uint64]bool)
		look := func() {
			t.Helper()
			var done []*bitmap
			for _, m := range memories {
				done = append(done, &m.done)
			}
			for _, run := range l.take(done) {
				for u := run.first; u < run.first+run.n; u++ {
					if given[u] || u >= units {
						t.Fatalf("unit %d is spare again, or is none", u)
					}
					given[u] = true
				}
			}
			want := make(map[uint64]bool)
			for u := range uint64(units) {
				want[u] = true
			}
			for page := range src.pages {
				slot, stored := src.slotOf(page)
				if stored && slices.ContainsFunc(memories, func(m *memory) bool { return !m.done.has(page) }) {
					want[slot/store.GiveUnit] = false
				}
			}
			for u := range uint64(units) {
				if want[u] != given[u] {
					t.Fatalf("seed %d: unit %d is spare: %v, should be: %v", seed, u, given[u], want[u])
				}
			}
		}
		look()
		for range 600 {
			i := r.IntN(len(memories))
			m := memories[i]
			switch x := r.IntN(40); {
			case x == 0 && len(memories) < 5: // a fork
				memories = append(memories, &memory{source: src, forked: true, done: m.done.clone()})
			case x == 1 && len(memories) > 1: // an end before everything is in
				memories = slices.Delete(memories, i, i+1)
				l.touch(0, src.pages)
			default:
				first := r.Uint64N(src.pages)
				m.mark(first, min(1+r.Uint64N(150), src.pages-first))
			}
			if r.IntN(4) == 0 {
				look()
			}
		}
		for _, m := range memories {
			m.mark(0, src.pages)
		}
		look()
		if len(given) != units {
			t.Fatalf("seed %d: %d of %d units were spare when everything was done", seed, len(given), units)
		}
	}
}

// What is filled in around a fault makes units spare, wherever the store has them.
func TestWhatIsFilledInAroundAFaultIsWholeUnits(t *testing.T) {
	const pages, first = 100 * store.GiveUnit, 5
	src := &source{}
	src.add(0x7000, pages, make([]byte, pages*pageSize))
	src.pieces[0].stored, src.pieces[0].slot = true, first
	src.add(0x7000+pages*pageSize, 64, nil)
	for _, page := range []uint64{20, 50, pages - 3} {
		start := src.around(0x7000+page*pageSize, nearBytes)
		if slot := first + (start-0x7000)/pageSize; slot%store.GiveUnit != 0 || slot/store.GiveUnit != (first+page)/store.GiveUnit {
			t.Errorf("around page %d it begins in the middle of a unit, at slot %d", page, slot)
		}
	}
	if start := src.around(0x7000, nearBytes); start != 0x2000 {
		t.Errorf("around the first page of a store's piece it begins at %#x", start)
	}
	if start := src.around(0x7000+(pages+20)*pageSize, nearBytes); start%nearBytes != 0 {
		t.Errorf("around a page of zeros it begins at %#x", start)
	}
	if start := (&source{}).around(0x3000, nearBytes); start != 0 {
		t.Errorf("around the lowest pages it begins at %#x", start)
	}
}

// A server that follows another finds in place what the note says, whichever memory it takes
// over, and fills in nothing of it.
func TestWhatWasGivenBackIsDoneInEveryMemoryThatIsTakenOver(t *testing.T) {
	const units = 20
	src := scattered(rand.New(rand.NewPCG(7, 7)), units)
	given := func(u uint64) bool { return u%3 == 0 }
	l := newLedger(src, units, given)
	src.giver = &giver{ledger: l}
	m := &memory{source: src, where: newTranslation(src.hull())}
	m.resetDone()
	for page := range src.pages {
		slot, stored := src.slotOf(page)
		want := stored && given(slot/store.GiveUnit)
		if m.done.has(page) != want {
			t.Fatalf("page %d, of which the memory is given back: %v, counts as done: %v", page, want, !want)
		}
		if is, err := m.given(page); is != want || err != nil {
			t.Fatalf("page %d is given back: %v, %v", page, is, err)
		}
	}
	for _, run := range l.take([]*bitmap{&m.done}) {
		for u := run.first; u < run.first+run.n; u++ {
			if given(u) {
				t.Fatalf("unit %d is to be given back again", u)
			}
		}
	}
	// One that lacks a page of it would read a hole.
	late := &memory{source: src, done: newBitmap(src.pages)}
	for page := range src.pages {
		if m.done.has(page) {
			if _, err := late.given(page); !errors.Is(err, ErrGivenBack) {
				t.Fatalf("page %d is not in place and its memory given back: %v", page, err)
			}
		}
	}
}
