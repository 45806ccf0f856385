package track

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

func (k *tracked) deferPages(at uint64, from, to int) {
	k.tr.Defer(of(k.t, k.round(), k.pid).Space, []pagestream.Range{{Start: at + uint64(from)*page, Pages: uint64(to - from)}})
}

func TestDeferredPagesAreReportedAgainWrittenOrNot(t *testing.T) {
	k := track(t)
	at := k.num("map 20")
	k.num("write %x 20 5", at)
	k.round()
	k.deferPages(at, 3, 6)
	k.num("write %x 1 7", at+5*page)
	k.num("write %x 1 7", at+9*page)
	r := k.round()
	if got := k.dirty(r, k.pid, at, 32); !slices.Equal(got, []int{3, 4, 5, 9}) {
		t.Errorf("dirty %v", got)
	}
	written := of(t, r, k.pid).Written
	for p, want := range map[uint64]bool{3: false, 4: false, 5: true, 9: true} {
		one := []pagestream.Range{{Start: at + p*page, Pages: 1}}
		if got := len(pagestream.Intersect(written, one)) > 0; got != want {
			t.Errorf("page %d is told written: %v, want %v", p, got, want)
		}
	}
	k.want("once reported, no more", at, 32)
}

func TestDeferredPagesAreInTheFrozenRoundUnlessGone(t *testing.T) {
	k := track(t)
	at := k.num("map 20")
	k.num("write %x 20 5", at)
	k.round()
	k.deferPages(at, 2, 12)
	k.num("write %x 1 7", at+20*page)
	k.num("unmap %x 2", at+2*page)
	k.num("advise %x 2 %x", at+4*page, unix.MADV_DONTNEED)
	k.num("prot %x 2 %x", at+6*page, unix.PROT_NONE)
	freeze(t, k.pid)
	defer thaw(k.pid)
	r, err := k.tr.CollectFrozen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := k.dirty(r, k.pid, at, 32); !slices.Equal(got, []int{6, 7, 8, 9, 10, 11, 20}) {
		t.Errorf("dirty %v", got)
	}
	k.c.take(t, r)
	procs, _ := tree(k.pid)
	if k.c.compare(t, procs) == 0 {
		t.Error("nothing was compared")
	}
}

func TestDeferredPagesOfMemoryThatWasReplacedAreForgotten(t *testing.T) {
	k := track(t)
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	k.round()
	k.deferPages(at, 0, 16)
	k.in.WriteString("exec\n")
	k.expect("ready")
	if p := of(t, k.round(), k.pid); !p.New {
		t.Errorf("%+v", p)
	}
	k.finish()
}

// Whatever is left out of rounds, at random, is in a later one.
func TestRoundsWithDeferredPagesMakeAWholeCopy(t *testing.T) {
	k := track(t)
	at := k.num("map 100")
	k.num("write %x 100 5", at)
	for n := range uint64(30) {
		r, err := k.tr.Collect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Processes {
			p := &r.Processes[i]
			var send, left []pagestream.Range
			for j, d := range p.Dirty {
				if (uint64(j)+n)%3 == 0 && n > 0 {
					left = append(left, d)
				} else {
					send = append(send, d)
				}
			}
			k.tr.Defer(p.Space, left)
			p.Dirty, p.Pages = send, pagesOf(send)
		}
		k.c.take(t, r)
		k.num("write %x 3 %x", at+(n*7%250)*page, n+10)
		k.num("write %x 1 %x", at+(n*13%250)*page, n+50)
	}
	k.finish()
}
