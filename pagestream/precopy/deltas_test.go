package precopy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
	"godwit.dev/godwit/pagestream/track"
)

// changing is a sink that takes deltas as well. limit is what its streams say of them.
type changing struct {
	*sink
	limit int

	mu    sync.Mutex
	pages uint64 // that were changed
}

func (c *changing) Stream(i int) Stream { return &changingLane{&lane{sink: c.sink, number: i}, c} }

type changingLane struct {
	*lane
	to *changing
}

func (l *changingLane) DeltaLimit() int { return l.to.limit }

func (l *changingLane) Deltas(space pagestream.Space, runs []pagestream.Range, records []byte) error {
	if !l.busy.TryLock() {
		return fmt.Errorf("stream %d is used by two workers", l.number)
	}
	defer l.busy.Unlock()
	l.to.mu.Lock()
	l.to.pages += pagesOf(runs)
	l.to.mu.Unlock()
	for _, r := range runs {
		for address := r.Start; address < r.End(); address += pagestream.PageSize {
			page := append([]byte(nil), l.sink.page(space, address)...)
			record, rest, err := delta.Next(records)
			if err == nil {
				err = record.Apply(page)
			}
			if err != nil {
				return fmt.Errorf("page %#x: %w", address, err)
			}
			records = rest
			l.sink.mu.Lock()
			err = l.sink.store(l.number, space, []pagestream.Range{{Start: address, Pages: 1}}, page)
			l.sink.mu.Unlock()
			if err != nil {
				return err
			}
		}
	}
	if len(records) > 0 {
		return fmt.Errorf("%d bytes behind the last record", len(records))
	}
	return nil
}

// touch changes a few bytes of pages.
func (s *scripted) touch(pages ...uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pages {
		s.mem[p*pagestream.PageSize+uint64(len(s.dirty))%pagestream.PageSize]++
		s.dirty[p] = true
	}
}

// rewrite changes all of a page.
func (s *scripted) rewrite(page uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rand.NewChaCha8([32]byte{byte(page)}).Read(s.mem[page*pagestream.PageSize : (page+1)*pagestream.PageSize])
	s.dirty[page] = true
}

func TestPagesThatAreSentAgainGoAsWhatChangedInThem(t *testing.T) {
	const pages = 256
	tracker := newScripted(t, pages)
	s := &changing{sink: newSink(2), limit: delta.MaxRecord}
	r := newTestRounds(t, Config{Tracker: tracker, Session: s})
	copyRound := func(number int, sent, deltas uint64) {
		t.Helper()
		stat, err := r.round(t.Context(), number)
		if err != nil || stat.Copied.Sent != sent || stat.Copied.Deltas != deltas {
			t.Fatalf("round %d sends %d pages, %d of them as deltas, want %d and %d: %v",
				number, stat.Copied.Sent, stat.Copied.Deltas, sent, deltas, err)
		}
		if c := stat.Copied; c.Carried() != (sent-deltas)*pagestream.PageSize+c.DeltaBytes || (deltas > 0) != (c.DeltaBytes > 0) {
			t.Errorf("round %d: %d bytes were carried, %d of deltas", number, c.Carried(), c.DeltaBytes)
		}
	}
	copyRound(0, pages, 0)
	tracker.touch(1, 2, 3)
	copyRound(1, 3, 0) // the first copy is not kept
	tracker.touch(1, 2, 9)
	copyRound(2, 3, 2)
	tracker.rewrite(9)
	tracker.touch(1)
	copyRound(3, 2, 1)
	tracker.touch(1, 2, 3, 9, 10)
	r.state = Converged
	stat, err := r.Final(t.Context())
	if err != nil || stat.Copied.Sent != 5 || stat.Copied.Deltas != 3 {
		t.Errorf("the last copy: %+v, %v; want 5 pages, 3 as deltas", stat.Copied, err)
	}
	if bad := s.differing(self, tracker.start, tracker.mem); len(bad) > 0 {
		t.Errorf("%d pages differ", len(bad))
	}
	s.check(t)
}

func TestNothingIsKeptForDeltasThatAreNotWorthIt(t *testing.T) {
	tracker := newScripted(t, 16)
	s := &changing{sink: newSink(1)}
	r := newTestRounds(t, Config{Tracker: tracker, Session: s})
	for n := range 4 {
		if n > 0 {
			tracker.touch(1, 2, 3)
		}
		if _, err := r.round(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.resent.copies.Pages(); n != 0 || s.pages != 0 {
		t.Errorf("%d copies are kept, %d pages went as deltas", n, s.pages)
	}
}

func TestCopiesOfAProcessThatEndedOrIsAnotherProgramAreForgotten(t *testing.T) {
	for name, found := range map[string]track.Round{
		"ended": {Gone: []pagestream.Space{self}},
		"exec":  {Processes: []track.ProcessRound{{Process: track.Process{Space: self}, New: true}}},
	} {
		r, err := newResent(true)
		if err != nil {
			t.Fatal(err)
		}
		defer r.release()
		page := make([]byte, pagestream.PageSize)
		var batch delta.Batch
		r.copies.Split(self, []pagestream.Range{{Start: 0, Pages: 1}}, page, nil, delta.MaxRecord, true, &batch)
		r.sift([]*area{{space: self}}, found)
		if n := r.copies.Pages(); n != 0 {
			t.Errorf("%s: %d copies of its pages are kept", name, n)
		}
	}
}

func TestWhatDeltasSaveOfPagesThatAreLeftOut(t *testing.T) {
	for _, c := range []struct {
		name                        string
		pages, probed, taken, limit int
		want                        uint64
	}{
		{"nothing changed", 100, 10, 0, delta.MaxRecord, 100 * pagestream.PageSize},
		{"a quarter", 100, 10, 10 * 1024, delta.MaxRecord, 100 * 3072},
		{"a quarter, of pages that compress to half", 100, 10, 10 * 1024, delta.MaxRecord / 2, 100 * 2048},
		{"all", 100, 10, 10 * pagestream.PageSize, delta.MaxRecord, 0},
		{"all, of pages that compress well", 100, 10, 10 * pagestream.PageSize, 100, 0},
	} {
		if got := savedBytes(c.pages, c.probed, c.taken, c.limit); got != c.want {
			t.Errorf("%s: %d bytes are saved, want %d", c.name, got, c.want)
		}
	}
}

// Pages that every round finds written, but that have copies and changed little, do not make the
// downtime long: the rounds need not go on for them, nor the pod be held back.
func TestPagesLeftOutCountForWhatTheirDeltasTake(t *testing.T) {
	r := newTestRounds(t, Config{Tracker: newScripted(t, 64), Session: &changing{sink: newSink(1), limit: delta.MaxRecord}})
	if n := r.savedOf(track.Process{PID: os.Getpid(), Space: self}, []pagestream.Range{{Start: 0, Pages: 1 << 30}}); n != 0 {
		t.Errorf("%d bytes are saved before any page has a copy", n)
	}
	mem, start := arena(t, 8)
	rand.NewChaCha8([32]byte{3}).Read(mem)
	runs := []pagestream.Range{{Start: start, Pages: 8}}
	var batch delta.Batch
	r.resent.copies.Split(self, runs, append([]byte(nil), mem...), nil, delta.MaxRecord, true, &batch)
	for p := range 8 {
		mem[p*pagestream.PageSize+5]++
	}
	const each = delta.HeadSize + 3
	left := []pagestream.Range{{Start: start, Pages: 4}}
	if got, want := r.savedOf(track.Process{PID: os.Getpid(), Space: self}, left), uint64(4*(pagestream.PageSize-each)); got != want {
		t.Errorf("%d bytes are saved, want %d", got, want)
	}
	history := []RoundStat{
		{Pages: 10000, Copy: time.Second, Copied: CopyStats{Sent: 10000}},
		{Number: 2, Sorted: true, Pages: 4000, Hot: 4000, Window: time.Second, Copy: time.Millisecond},
	}
	before := forecast(history, Policy{})
	history[1].Saved = 3900 * pagestream.PageSize
	if after := forecast(history, Policy{}); after.Downtime > before.Downtime/2 || after.Left != before.Left {
		t.Errorf("a downtime of %v is predicted, without deltas %v", after.Downtime, before.Downtime)
	}
}
