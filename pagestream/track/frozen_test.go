package track

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// madvGuard is MADV_GUARD_INSTALL, madvPageOut MADV_PAGEOUT.
const (
	madvGuard   = 102
	madvPageOut = unix.MADV_PAGEOUT
)

// frozenRound does a last round and returns what it says of the target. What is
// present is checked against a scan of its own in any case.
func (k *tracked) frozenRound() ProcessRound {
	k.t.Helper()
	freeze(k.t, k.pid)
	defer thaw(k.pid)
	r, err := k.tr.CollectFrozen(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	k.c.take(k.t, r)
	procs, _ := tree(k.pid)
	k.c.compare(k.t, procs)
	return of(k.t, r, k.pid)
}

// pagesAt says which of n pages from at on are in ranges.
func pagesAt(ranges []pagestream.Range, at uint64, n int) (in []int) {
	for i := range n {
		if pagestream.Contains(ranges, at+uint64(i)*page) {
			in = append(in, i)
		}
	}
	return in
}

// wantFrozen checks which of n pages from at on the last round tells, and which to copy.
func (k *tracked) wantFrozen(at uint64, n int, present, dirty []int) {
	k.t.Helper()
	p := k.frozenRound()
	if got := pagesAt(p.Present, at, n); !slices.Equal(got, present) {
		k.t.Errorf("present %v, want %v", got, present)
	}
	if got := pagesAt(p.Dirty, at, n); !slices.Equal(got, dirty) {
		k.t.Errorf("dirty %v, want %v", got, dirty)
	}
}

// What the last round says of 16 pages that a round has copied before, after the program did something.
func TestALastRoundTellsThePagesThatThereAre(t *testing.T) {
	for name, c := range map[string]struct {
		does           func(k *tracked, at uint64)
		present, dirty []int
		needs          func() error
	}{
		"nothing": {does: func(*tracked, uint64) {}, present: seq(0, 16)},
		"written": {does: func(k *tracked, at uint64) { k.num("write %x 2 9", at+3*page) }, present: seq(0, 16), dirty: seq(3, 5)},
		"dropped": {does: func(k *tracked, at uint64) { k.num("advise %x 3 %x", at+2*page, unix.MADV_DONTNEED) }, present: append(seq(0, 2), seq(5, 16)...)},
		"dropped and written again": {
			does: func(k *tracked, at uint64) {
				k.num("advise %x 3 %x", at+2*page, unix.MADV_DONTNEED)
				k.num("write %x 1 8", at+3*page)
			},
			present: append([]int{0, 1, 3}, seq(5, 16)...), dirty: []int{3},
		},
		"dropped and read, which shows the page of zeros": {
			does: func(k *tracked, at uint64) {
				k.num("advise %x 3 %x", at+2*page, unix.MADV_DONTNEED)
				k.num("read %x 3", at+2*page)
			},
			present: append(seq(0, 2), seq(5, 16)...), needs: zeroPage,
		},
		"all dropped, so that the kernel may take the page table": {
			does: func(k *tracked, at uint64) { k.num("advise %x 10 %x", at, unix.MADV_DONTNEED) },
		},
		"made guard pages": {
			does:    func(k *tracked, at uint64) { k.num("advise %x 2 %x", at+6*page, madvGuard) },
			present: append(seq(0, 6), seq(8, 16)...), needs: pagemap.ProbeGuard,
		},
		"paged out if there is swap": {does: func(k *tracked, at uint64) { k.num("advise %x 10 %x", at, madvPageOut) }, present: seq(0, 16)},
		"mapped anew, which nobody tracks": {
			does: func(k *tracked, at uint64) {
				k.num("fixed %x 4", at+4*page)
				k.num("write %x 2 8", at+5*page)
			},
			present: append([]int{0, 1, 2, 3, 5, 6}, seq(8, 16)...), dirty: []int{5, 6},
		},
		"unmapped":  {does: func(k *tracked, at uint64) { k.num("unmap %x 4", at+4*page) }, present: append(seq(0, 4), seq(8, 16)...)},
		"forbidden": {does: func(k *tracked, at uint64) { k.num("prot %x 4 0", at+4*page) }, present: seq(0, 16)},
	} {
		t.Run(name, func(t *testing.T) {
			if c.needs != nil {
				if err := c.needs(); err != nil {
					t.Skip(err)
				}
			}
			k := track(t)
			at := k.num("map 10")
			k.num("advise %x 10 f", at)
			k.num("write %x 10 5", at)
			k.round()
			c.does(k, at)
			k.wantFrozen(at, 16, c.present, c.dirty)
		})
	}
}

// An area that moves takes its pages along, and leaves none behind, even if it stays itself.
func TestALastRoundTellsPagesThatMoved(t *testing.T) {
	const pages = 1024 // two page tables, which the kernel may move as a whole
	for name, c := range map[string]struct{ size, flags int }{
		"and grew":   {2 * pages, unix.MREMAP_MAYMOVE},
		"and stayed": {pages, unix.MREMAP_MAYMOVE | unix.MREMAP_DONTUNMAP},
	} {
		t.Run(name, func(t *testing.T) {
			k := track(t)
			at := k.num("map %x", pages)
			k.num("advise %x %x f", at, pages)
			k.num("write %x %x 5", at, pages)
			k.round()
			to := k.num("remap %x %x %x %x", at, pages, c.size, c.flags)
			written := c.size - 3
			k.num("write %x 1 7", to+uint64(written)*page)
			want := seq(0, pages)
			if written >= pages {
				want = append(want, written)
			}
			p := k.frozenRound()
			if got := pagesAt(p.Present, to, c.size); !slices.Equal(got, want) {
				t.Errorf("%d pages where the area is now, want %d", len(got), len(want))
			}
			if to == at {
				return
			}
			if got := pagesAt(p.Dirty, to, c.size); !slices.Equal(got, want) {
				t.Errorf("%d pages dirty where the area is now, want %d", len(got), len(want))
			}
			if got := pagesAt(p.Present, at, min(pages, int((to-at)/page))); len(got) > 0 {
				t.Errorf("%d pages where it was", len(got))
			}
		})
	}
}

// A child that is forked after the last round is not armed: all that it has counts.
func TestALastRoundTellsAllPagesOfAProcessThatIsNew(t *testing.T) {
	k := track(t)
	at := k.num("map 10")
	k.num("write %x c 5", at)
	k.round()
	child := int(k.num("fork"))
	freeze(t, k.pid)
	defer thaw(k.pid)
	r, err := k.tr.CollectFrozen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k.c.take(t, r)
	p := of(t, r, child)
	if got := pagesAt(p.Present, at, 16); !slices.Equal(got, seq(0, 12)) {
		t.Errorf("present %v", got)
	}
	if !slices.Equal(p.Dirty, p.Present) {
		t.Errorf("dirty %v, present %v", p.Dirty, p.Present)
	}
	if p = of(t, r, k.pid); len(pagesAt(p.Dirty, at, 16)) > 0 {
		t.Errorf("the parent's pages are dirty: %v", p.Dirty)
	}
}

// Pieces in which several processors walk an area are put together again.
func TestALastRoundTellsPagesOverPieces(t *testing.T) {
	k := track(t)
	n := frozenPiece/page + 512
	at := k.num("map %x", n)
	edge := int(frozenPiece / page)
	k.num("write %x 2 5", at)
	k.num("write %x 6 5", at+uint64(edge-3)*page)
	k.num("write %x 1 5", at+uint64(n-1)*page)
	k.round()
	k.num("write %x 2 6", at+uint64(edge-1)*page)
	p := k.frozenRound()
	present, dirty := pagesAt(p.Present, at, n), pagesAt(p.Dirty, at, n)
	if !slices.Equal(present, append(append(seq(0, 2), seq(edge-3, edge+3)...), n-1)) || !slices.Equal(dirty, seq(edge-1, edge+1)) {
		t.Errorf("present %v, dirty %v", present, dirty)
	}
}

// An area of huge pages is told whole, written or not.
func TestALastRoundTellsHugePages(t *testing.T) {
	k := track(t)
	at := k.num("huge 400")
	k.num("write %x 400 5", at)
	k.round()
	k.num("write %x 1 7", at+700*page)
	p := k.frozenRound()
	if got := pagesAt(p.Present, at, 1024); len(got) != 1024 {
		t.Errorf("%d pages", len(got))
	}
	if !pagestream.Contains(p.Dirty, at+700*page) || pagestream.Contains(p.Dirty, at) {
		t.Errorf("dirty %v", p.Dirty)
	}
}
