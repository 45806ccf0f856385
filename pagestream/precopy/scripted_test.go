package precopy

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/track"
)

// scripted is a tracker of the test's own memory, which knows what is dirty as
// it is the one that writes.
type scripted struct {
	mem   []byte
	start uint64

	mu       sync.Mutex // guards mem and what follows
	dirty    map[uint64]bool
	present  bool // everything was reported
	frozen   bool
	collects int
	err      error
	missing  bool // report a page that cannot be read
	deferred []pagestream.Range
	deferral uint64 // pages deferred in all
}

func newScripted(tb testing.TB, pages int) *scripted {
	mem, start := arena(tb, pages)
	fill(mem, uint64(pages))
	return &scripted{mem: mem, start: start, dirty: make(map[uint64]bool)}
}

// write makes n random pages dirty, unless the memory is frozen.
func (s *scripted) write(rng *rand.Rand, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen {
		return
	}
	for range n {
		p := rng.Uint64N(uint64(len(s.mem) / pagestream.PageSize))
		s.mem[p*pagestream.PageSize+rng.Uint64N(pagestream.PageSize)]++
		s.dirty[p] = true
	}
}

// writePage makes one page dirty, unless the memory is frozen.
func (s *scripted) writePage(p uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.frozen {
		s.mem[p*pagestream.PageSize]++
		s.dirty[p] = true
	}
}

// count is how many pages are dirty.
func (s *scripted) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dirty)
}

func (s *scripted) Collect(context.Context) (track.Round, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.collect()
}

func (s *scripted) CollectFrozen(context.Context) (track.Round, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = true
	return s.collect()
}

func (s *scripted) collect() (track.Round, error) {
	s.collects++
	if s.err != nil {
		return track.Round{}, s.err
	}
	var ranges []pagestream.Range
	if !s.present {
		s.present = true
		clear(s.dirty)
		ranges = append(ranges, pagestream.Range{Start: s.start, Pages: uint64(len(s.mem) / pagestream.PageSize)})
	}
	var numbers []uint64
	for p := range s.dirty {
		numbers = append(numbers, p)
	}
	slices.Sort(numbers)
	for _, p := range numbers {
		ranges = pagestream.AppendRun(ranges, pagestream.Range{Start: s.start + p*pagestream.PageSize, Pages: 1})
	}
	clear(s.dirty)
	written := ranges
	ranges = pagestream.Union(ranges, s.deferred)
	s.deferred = nil
	if s.missing {
		ranges = append([]pagestream.Range{{Start: pagestream.PageSize, Pages: 1}}, ranges...)
	}
	round := roundOf(Memory{PID: os.Getpid(), Space: self, Ranges: ranges})
	round.Processes[0].Written = written
	return round, nil
}

// deferring is a scripted tracker that reports again what was left out.
type deferring struct{ *scripted }

func (d deferring) Defer(_ pagestream.Space, ranges []pagestream.Range) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deferred = pagestream.Union(d.deferred, ranges)
	d.deferral += pagesOf(ranges)
}

// roundOf is a round of a tracker that found memories.
func roundOf(memories ...Memory) track.Round {
	var r track.Round
	for _, m := range memories {
		r.Processes = append(r.Processes, track.ProcessRound{
			Process: track.Process{PID: m.PID, Space: m.Space}, Dirty: m.Ranges, Pages: pagesOf(m.Ranges),
		})
	}
	return r
}

func newTestRounds(t *testing.T, c Config) *Rounds {
	t.Helper()
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}
