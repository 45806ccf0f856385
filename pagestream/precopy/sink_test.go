package precopy

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// sink is a session that keeps what arrives, and checks what a stream may rely
// on.
type sink struct {
	streams int
	fail    func(pagestream.Space, []pagestream.Range) error // of Runs, if not nil

	mu      sync.Mutex
	pages   map[pagestream.Space]map[uint64][]byte
	round   map[pagestream.Space]map[uint64]bool // what arrived since the last flush
	sent    uint64
	perLane []uint64
	flushes int
	broken  []string
}

func newSink(streams int) *sink {
	return &sink{
		streams: streams,
		pages:   make(map[pagestream.Space]map[uint64][]byte),
		round:   make(map[pagestream.Space]map[uint64]bool),
		perLane: make([]uint64, streams),
	}
}

func (s *sink) Streams() int { return s.streams }

func (s *sink) Stream(i int) Stream { return &lane{sink: s, number: i} }

func (s *sink) Flush(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushes++
	clear(s.round)
	return ctx.Err()
}

// check reports what was wrong with the calls.
func (s *sink) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.broken {
		t.Error(b)
	}
}

// page is what the destination has at an address; zeros if nothing came.
func (s *sink) page(space pagestream.Space, address uint64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pages[space][address]; p != nil {
		return p
	}
	return make([]byte, pagestream.PageSize)
}

// differing lists the pages of memory, which begins at start, that the
// destination has not like that.
func (s *sink) differing(space pagestream.Space, start uint64, memory []byte) []uint64 {
	var bad []uint64
	for at := 0; at < len(memory); at += pagestream.PageSize {
		if !bytes.Equal(memory[at:at+pagestream.PageSize], s.page(space, start+uint64(at))) {
			bad = append(bad, start+uint64(at))
		}
	}
	return bad
}

// lane is a stream of a sink. Its buffer is compared after the fact, so that
// a worker that reuses it too early is found by the race detector.
type lane struct {
	sink   *sink
	number int
	busy   sync.Mutex
}

func (l *lane) Runs(space pagestream.Space, runs []pagestream.Range, data []byte) error {
	if !l.busy.TryLock() {
		return fmt.Errorf("stream %d is used by two workers", l.number)
	}
	defer l.busy.Unlock()
	if l.sink.fail != nil {
		if err := l.sink.fail(space, runs); err != nil {
			return err
		}
	}
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	return l.sink.store(l.number, space, runs, data)
}

func (s *sink) store(number int, space pagestream.Space, runs []pagestream.Range, data []byte) error {
	if len(data) == 0 || len(data) > chunkBytes || pagesOf(runs)*pagestream.PageSize != uint64(len(data)) {
		return fmt.Errorf("%d bytes for %d pages", len(data), pagesOf(runs))
	}
	if s.pages[space] == nil {
		s.pages[space] = make(map[uint64][]byte)
	}
	if s.round[space] == nil {
		s.round[space] = make(map[uint64]bool)
	}
	var end uint64
	for _, r := range runs {
		if err := r.Valid(); err != nil || r.Start < end {
			return fmt.Errorf("run %s after %#x: %v", r, end, err)
		}
		end = r.End()
		for address := r.Start; address < r.End(); address += pagestream.PageSize {
			if s.round[space][address] {
				s.broken = append(s.broken, fmt.Sprintf("page %#x of %s was sent twice in a round", address, space))
			}
			s.round[space][address] = true
			s.pages[space][address] = append(s.pages[space][address][:0], data[:pagestream.PageSize]...)
			data = data[pagestream.PageSize:]
			s.sent++
			s.perLane[number]++
		}
	}
	return nil
}

// null is a session that takes everything and keeps nothing.
type null struct{ streams int }

func (n null) Streams() int                                          { return n.streams }
func (n null) Stream(int) Stream                                     { return n }
func (null) Flush(context.Context) error                             { return nil }
func (null) Runs(pagestream.Space, []pagestream.Range, []byte) error { return nil }

// arena is memory of the test itself, mapped for one test.
func arena(tb testing.TB, pages int) ([]byte, uint64) {
	tb.Helper()
	mem, err := unix.Mmap(-1, 0, pages*pagestream.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem, addressOf(mem)
}
