package lazy

import (
	"net"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/demand"
)

// missingAll is a fetcher of processes that lack all of so many pages each; it has a connection, on which
// nobody answers.
func missingAll(t *testing.T, processes int, pages uint64) *fetcher {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() }) // nothing is written: that is Run's
	f := newFetcher(Remote{}, 0, nil, -1)
	f.asking = demand.NewAsking(here)
	f.traffic.restart(time.Now())
	for number := 1; number <= processes; number++ {
		src := &source{pid: int32(number)}
		src.add(base(number), pages, nil)
		p := &remotePages{presence: newPresence(pages), fetcher: f, source: src, gone: newBitmap(pages), wanted: make(map[uint64]waiting)}
		p.clear(0, pages)
		p.restart()
		src.from = p
		f.sources[uint32(number)], f.order = p, append(f.order, p)
	}
	return f
}

// answerAll answers what the background has asked for until it asks for nothing more, and returns the pages of a process, in order.
func (f *fetcher) answerAll(process uint32) (pages []uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.sources[process]
	for {
		f.pump()
		var first request
		for r, flight := range f.traffic.flights {
			if !flight.waits && r.process == process && (first.pages == 0 || flight.asked.Before(f.traffic.flights[first].asked)) {
				first = r
			}
		}
		if first.pages == 0 {
			return pages
		}
		i, _ := p.source.number(first.start)
		for k := range first.pages {
			p.set(i + k)
			pages = append(pages, i+k)
		}
		f.traffic.answered(first, time.Now())
	}
}

func TestPagesNearAFaultAreFetchedBeforeTheBackgroundMayGoOn(t *testing.T) {
	f := missingAll(t, 2, 10_000)
	f.order[0].want(5000)
	if got := f.answerAll(1); len(got) != vicinityPages-around {
		t.Errorf("%d pages near a fault came besides its own %d; want %d", len(got), around, vicinityPages-around)
	} else {
		for _, i := range got {
			if i < 5000-vicinityPages/2 || i >= 5000+vicinityPages/2 {
				t.Errorf("page %d is not near 5000", i)
			}
		}
	}
	if got := f.answerAll(2); len(got) != 0 {
		t.Errorf("%d pages came of a process that waits for none", len(got))
	}
	f.begin()
	if got, most := f.answerAll(1), 10_000-vicinityPages; len(got) != most {
		t.Errorf("%d pages came in the background, of %d", len(got), most)
	}
	if got := f.answerAll(2); len(got) != 10_000 {
		t.Errorf("%d pages of another process came, of all", len(got))
	}
}

func TestWhatIsNearTheLatestFaultComesFirst(t *testing.T) {
	f := missingAll(t, 1, 10_000)
	p := f.order[0]
	for _, i := range []uint64{0, 4000, 9999, 4000} {
		p.settled.set(i, 1)
		f.near.add(p, i)
	}
	var seen []uint64
	for _, want := range []struct{ first, end uint64 }{{4000 - vicinityPages/2, 4000 + vicinityPages/2}, {9999 - vicinityPages/2, 10_000}, {0, vicinityPages}} {
		for i := want.first; i < want.end; i++ {
			if i == 0 || i == 4000 || i == 9999 {
				continue
			}
			of, at, end := f.near.next()
			if of != p || at != i || end != want.end {
				t.Fatalf("page %d, up to %d, after %d pages; want %d, up to %d", at, end, len(seen), i, want.end)
			}
			p.settled.set(at, 1)
			seen = append(seen, at)
		}
	}
	if of, _, _ := f.near.next(); of != nil {
		t.Error("there is more near a fault than there is")
	}
}

func TestOnlyTheLatestFaultsAreKnownOfMany(t *testing.T) {
	f := missingAll(t, 1, 1<<20)
	for i := range uint64(10 * maxVicinities) {
		f.near.add(f.order[0], i*1000)
	}
	if len(f.near) != maxVicinities {
		t.Fatalf("%d vicinities are known, not %d", len(f.near), maxVicinities)
	}
	if oldest, want := f.near[0].end, uint64(9*maxVicinities*1000+vicinityPages/2); oldest != want {
		t.Errorf("the oldest ends at page %d, not %d", oldest, want)
	}
}
