package traces

import (
	"fmt"
	"math/rand/v2"
	"time"

	"godwit.dev/godwit/pagestream"
)

// interval is that of the traces made here.
const interval = 50 * time.Millisecond

// Rewriter writes memory over and over from its beginning to its end at a steady rate.
func Rewriter(memory uint64, rate float64, length time.Duration) *Trace {
	t := &Trace{Name: fmt.Sprintf("rewriter, %.0f MB/s", rate/1e6), Interval: interval, Pages: memory / pagestream.PageSize}
	each := rate * interval.Seconds() / pagestream.PageSize
	at := 0.0
	for range int(length / interval) {
		first, end := uint64(at)%t.Pages, uint64(at+each)%t.Pages
		at += each
		if first <= end {
			t.Dirty = append(t.Dirty, runs(Run{first, end - first}))
		} else {
			t.Dirty = append(t.Dirty, runs(Run{0, end}, Run{first, t.Pages - first}))
		}
	}
	return t
}

// Bursts writes little, and now and then much: for busy of every period random pages
// of a part of the memory, as many in each interval, and a few pages at all times.
func Bursts(memory, part uint64, period, busy time.Duration, pages int, length time.Duration) *Trace {
	t := &Trace{Name: "bursts", Interval: interval, Pages: memory / pagestream.PageSize}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range int(length / interval) {
		n := 10
		if time.Duration(i)*interval%period < busy {
			n = pages
		}
		written := make([]bool, part/pagestream.PageSize)
		for range n {
			written[rng.IntN(len(written))] = true
		}
		var all []Run
		for p, w := range written {
			if w {
				all = appendPage(all, uint64(p))
			}
		}
		t.Dirty = append(t.Dirty, all)
	}
	return t
}

// runs leaves out those without pages.
func runs(all ...Run) []Run {
	var some []Run
	for _, r := range all {
		if r.Pages > 0 {
			some = append(some, r)
		}
	}
	return some
}

// appendPage appends a page that comes after all that are there.
func appendPage(all []Run, page uint64) []Run {
	if n := len(all); n > 0 && all[n-1].First+all[n-1].Pages == page {
		all[n-1].Pages++
		return all
	}
	return append(all, Run{page, 1})
}
