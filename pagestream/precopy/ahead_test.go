package precopy

import (
	"math/rand/v2"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestMemoryIsNotCopiedAheadInVain(t *testing.T) {
	space := pagestream.Space{Kind: pagestream.Process, ID: 1}
	const pages = 8 * minAhead
	all := []pagestream.Range{{Start: 0x100000, Pages: pages}}
	for name, c := range map[string]struct {
		again  uint64 // of a hundred pages that were copied, dirty at each look
		pages  uint64
		want   verdict
		slices int
	}{
		"nothing is written":       {0, pages, doRounds, aheadMost},
		"a fifth is written again": {20, pages, doRounds, aheadMost},
		"half is written again":    {50, pages, leaveRest, 1},
		"a small pod":              {100, minAhead / 2, doRounds, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tr := trial{total: c.pages, sent: make(map[pagestream.Space][]pagestream.Range)}
			dirty := map[pagestream.Space][]pagestream.Range{space: pagestream.First(all, c.pages)}
			got := tr.judge(dirty)
			for ; got == copySlice; got = tr.judge(dirty) {
				send := tr.slice(dirty)
				if n := pagesOf(send[space]); n != c.pages/aheadSlices {
					t.Fatalf("a slice of %d pages of %d", n, c.pages)
				}
				sent := tr.sent[space]
				stale := pagestream.First(sent, pagesOf(sent)*c.again/100)
				dirty[space] = pagestream.Union(pagestream.Subtract(pagestream.First(all, c.pages), sent), stale)
			}
			if got != c.want || tr.slices != c.slices {
				t.Errorf("%v after %d slices, want %v after %d", got, tr.slices, c.want, c.slices)
			}
		})
	}
}

// Whatever is copied ahead, what the freeze leaves at the source is what the destination has not, or not as it is.
func TestWhatIsLeftIsWhatTheDestinationLacks(t *testing.T) {
	for name, written := range map[string]int{"quiet": 10, "written all over": 4000} {
		t.Run(name, func(t *testing.T) {
			testLeft(t, written)
		})
	}
}

func testLeft(t *testing.T, written int) {
	rng := rand.New(rand.NewPCG(uint64(written), 3))
	tracker := deferring{newScripted(t, minAhead+3000)}
	s := newSink(2)
	s.fail = func(pagestream.Space, []pagestream.Range) error {
		tracker.write(rng, written)
		return nil
	}
	r := newTestRounds(t, Config{Tracker: tracker, Session: s, Policy: Policy{Leaves: true, DirtyLimit: 1, MaxRounds: 2}})
	res, err := r.Run(t.Context())
	if err != nil || !res.Decision.Stop || (res.Decision.Reason == InVain) != (written > 100) {
		t.Fatalf("%+v, %v", res.Decision, err)
	}
	s.fail = nil
	memories, stat, err := r.Leave(t.Context())
	if err != nil || r.State() != Done || stat.Pages == 0 || stat.Copied.Sent != 0 {
		t.Fatalf("%+v, %v", stat, err)
	}
	left := make(map[uint64]bool)
	for _, m := range memories {
		for _, rg := range m.Ranges {
			for at := rg.Start; at < rg.End(); at += pagestream.PageSize {
				left[at] = true
			}
		}
	}
	for _, at := range s.differing(self, tracker.start, tracker.mem) {
		if !left[at] {
			t.Fatalf("page %#x differs, and is not left at the source", at)
		}
	}
}
