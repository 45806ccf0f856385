package delta

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"godwit.dev/godwit/pagestream"
)

var space = pagestream.Space{Kind: pagestream.Process, ID: 1}

// far is a process and a destination that has what was sent of it.
type far struct {
	t      *testing.T
	cache  *Cache
	memory []byte // the process'
	stored []byte // at the destination
	whole  int    // pages sent as they are
	deltas int
}

func newFar(t *testing.T, pages, slots int) *far {
	f := &far{t: t, cache: NewCache(slots * pagestream.PageSize)}
	f.memory = make([]byte, pages*pagestream.PageSize)
	rand.NewChaCha8([32]byte{9}).Read(f.memory)
	f.stored = bytes.Clone(f.memory)
	t.Cleanup(func() { f.cache.Release() })
	return f
}

// send is a round that finds these pages, which ascend.
func (f *far) send(limit int, pages ...int) {
	f.t.Helper()
	found := make(map[Key]bool)
	var runs []pagestream.Range
	var data []byte
	for _, p := range pages {
		at := p * pagestream.PageSize
		found[Key{space, uint64(at)}] = true
		runs = pagestream.AppendRun(runs, pagestream.Range{Start: uint64(at), Pages: 1})
		data = append(data, f.memory[at:at+pagestream.PageSize]...)
	}
	f.cache.Begin(func(k Key) bool { return found[k] })
	f.copy(runs, data, limit)
}

func (f *far) copy(runs []pagestream.Range, data []byte, limit int) {
	f.t.Helper()
	var batch Batch
	rest, left := f.cache.Split(space, runs, data, nil, limit, true, &batch)
	for _, r := range rest {
		f.whole += int(r.Pages)
		n := copy(f.stored[r.Start:], left[:r.Bytes()])
		left = left[n:]
	}
	f.deltas += int(batch.Pages())
	body := batch.Body
	for _, r := range batch.Runs {
		for at := r.Start; at < r.End(); at += pagestream.PageSize {
			record, next, err := Next(body)
			if err != nil {
				f.t.Fatal(err)
			}
			if err := record.Apply(f.stored[at : at+pagestream.PageSize]); err != nil {
				f.t.Fatalf("page %#x: %v", at, err)
			}
			body = next
		}
	}
	if len(body) > 0 || len(left) > 0 {
		f.t.Fatalf("%d bytes of records and %d of pages are left over", len(body), len(left))
	}
}

// write changes a few bytes of pages.
func (f *far) write(pages ...int) {
	for _, p := range pages {
		f.memory[p*pagestream.PageSize+64]++
	}
}

// sent checks what was sent since it was called last.
func (f *far) sent(what string, whole, deltas int) {
	f.t.Helper()
	if f.whole != whole || f.deltas != deltas {
		f.t.Errorf("%s: %d pages and %d deltas were sent, want %d and %d", what, f.whole, f.deltas, whole, deltas)
	}
	f.whole, f.deltas = 0, 0
	if !bytes.Equal(f.memory, f.stored) {
		f.t.Errorf("%s: the destination has something else", what)
	}
}

func TestAPageGoesAsADeltaOnceItWasSentThroughTheCache(t *testing.T) {
	f := newFar(t, 8, 8)
	f.write(1, 3)
	f.send(MaxRecord, 1, 3)
	f.sent("first time", 2, 0)
	f.write(1, 3, 5)
	f.send(MaxRecord, 1, 3, 5)
	f.sent("again", 1, 2)
	f.write(5)
	f.cache.Last()
	f.send(MaxRecord, 5)
	f.sent("last", 0, 1)
}

func TestAPageThatWasWrittenAnewGoesWholeAndLosesItsCopy(t *testing.T) {
	f := newFar(t, 4, 4)
	f.write(0)
	f.send(MaxRecord, 0)
	copy(f.memory, randomPage(7))
	f.whole = 0
	f.send(MaxRecord, 0)
	f.sent("anew", 1, 0)
	for range 2 {
		f.write(0)
		f.send(MaxRecord, 0)
		f.sent("after that", 1, 0)
	}
	if n := f.cache.Pages(); n != 0 {
		t.Errorf("%d copies are kept of pages that deltas do not suit", n)
	}
}

func TestMemoryWrittenInTurnsThatIsLargerThanTheCacheHasItsPartInIt(t *testing.T) {
	f := newFar(t, 16, 4)
	all := make([]int, 16)
	for i := range all {
		all[i] = i
	}
	f.write(all...)
	f.send(MaxRecord, all...)
	f.sent("first time", 16, 0)
	for range 3 {
		f.write(all...)
		f.send(MaxRecord, all...)
		f.sent("again", 12, 4)
	}
}

func TestPagesThatAreNoLongerWrittenMakeRoomForOthers(t *testing.T) {
	f := newFar(t, 16, 4)
	f.send(MaxRecord, 0, 1, 2, 3)
	f.send(MaxRecord, 4, 5, 6, 7) // those before are idle
	f.write(4, 5, 6, 7)
	f.whole = 0
	f.send(MaxRecord, 4, 5, 6, 7)
	f.sent("those that came in", 0, 4)
	f.send(MaxRecord, 0)
	f.sent("one that went", 1, 0)
}

func TestTheCopyGoesFirstThatNoRoundHasFoundForTheLongest(t *testing.T) {
	f := newFar(t, 8, 3)
	f.send(MaxRecord, 0, 1)
	f.send(MaxRecord, 0, 2)
	for range 2 * maxIdle {
		f.send(MaxRecord) // nothing is found, and nothing needed
	}
	f.send(MaxRecord, 0, 2)
	f.send(MaxRecord, 2, 5) // in the place of page 1
	f.write(0, 1, 2, 5)
	f.whole, f.deltas = 0, 0
	f.send(MaxRecord, 0, 2, 5)
	if f.whole != 0 || f.deltas != 3 {
		t.Errorf("%d pages and %d deltas were sent of those that were found since", f.whole, f.deltas)
	}
	f.send(MaxRecord, 1)
	f.sent("the one that went", 1, 3)
}

func TestWhatADeltaWouldTakeIsToldWithoutSendingIt(t *testing.T) {
	f := newFar(t, 4, 4)
	f.send(MaxRecord, 0, 1, 2)
	held := f.cache.Held(func(k Key) bool { return k.Address > 0 })
	if len(held) != 2 {
		t.Errorf("copies of %v are held, want those of pages 1 and 2", held)
	}
	page := bytes.Clone(f.memory[pagestream.PageSize : 2*pagestream.PageSize])
	page[9] ^= 1
	k := Key{space, pagestream.PageSize}
	if n := f.cache.Measure(k, page, MaxRecord); n != HeadSize+3 {
		t.Errorf("a changed byte takes %d bytes", n)
	}
	if n := f.cache.Measure(k, randomPage(1), MaxRecord); n != pagestream.PageSize {
		t.Errorf("another page takes %d bytes", n)
	}
	if n := f.cache.Measure(Key{space, 3 * pagestream.PageSize}, page, MaxRecord); n != pagestream.PageSize {
		t.Errorf("a page without a copy takes %d bytes", n)
	}
	f.write(1)
	f.whole = 0
	f.send(MaxRecord, 1)
	f.sent("after that", 0, 1)
}

func TestAForgottenSpaceIsSentWhole(t *testing.T) {
	f := newFar(t, 4, 4)
	f.send(MaxRecord, 0, 1)
	f.cache.Forget(space)
	f.whole = 0
	f.write(0)
	f.send(MaxRecord, 0)
	f.sent("after that", 1, 0)
}

func TestThereIsNoDeltaWhereItIsNotWorthIt(t *testing.T) {
	f := newFar(t, 4, 4)
	f.send(MaxRecord, 0)
	f.write(0)
	f.whole = 0
	f.send(0, 0)
	f.sent("no limit", 1, 0)
	f.write(0)
	f.send(MaxRecord, 0)
	f.sent("when it is again", 0, 1)
}

// What is written at random, by several workers at once, with rounds that find anything:
// the destination always has what was sent.
func TestTheDestinationAlwaysHasWhatWasSent(t *testing.T) {
	const pages, rounds = 256, 60
	f := newFar(t, pages, 40)
	rng := rand.New(rand.NewPCG(5, 6))
	for range rounds {
		var found []int
		for p := range pages {
			if rng.IntN(3) == 0 {
				continue
			}
			found = append(found, p)
			switch rng.IntN(10) {
			case 0:
				rand.NewChaCha8([32]byte{byte(p)}).Read(f.memory[p*pagestream.PageSize : (p+1)*pagestream.PageSize])
			case 1:
				clear(f.memory[p*pagestream.PageSize : (p+1)*pagestream.PageSize])
			default:
				f.write(p)
			}
		}
		dirty := make(map[Key]bool, len(found))
		for _, p := range found {
			dirty[Key{space, uint64(p * pagestream.PageSize)}] = true
		}
		f.cache.Begin(func(k Key) bool { return dirty[k] })
		var wg sync.WaitGroup
		for w := range 3 {
			worker := &far{t: t, cache: f.cache, memory: f.memory, stored: f.stored}
			wg.Go(func() {
				for i := w; i < len(found); i += 3 {
					at := found[i] * pagestream.PageSize
					worker.copy([]pagestream.Range{{Start: uint64(at), Pages: 1}}, bytes.Clone(f.memory[at:at+pagestream.PageSize]), 500)
				}
			})
		}
		wg.Wait()
		for _, p := range found {
			at := p * pagestream.PageSize
			if !bytes.Equal(f.memory[at:at+pagestream.PageSize], f.stored[at:at+pagestream.PageSize]) {
				t.Fatalf("page %d: the destination has something else", p)
			}
		}
		if n := f.cache.Pages(); n > 40 {
			t.Fatalf("%d copies in a cache of 40", n)
		}
	}
}
