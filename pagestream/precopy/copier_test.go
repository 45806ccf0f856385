package precopy

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

var self = pagestream.Space{Kind: pagestream.Process, ID: 1}

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

func fill(b []byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for at := 0; at < len(b); at += 8 {
		v := rng.Uint64()
		for i := range 8 {
			b[at+i] = byte(v >> (8 * i))
		}
	}
}

func ownMemory(ranges ...pagestream.Range) []Memory {
	return []Memory{{PID: os.Getpid(), Space: self, Ranges: ranges}}
}

func newTestCopier(t *testing.T, s Session) *Copier {
	t.Helper()
	c := NewCopier(s)
	t.Cleanup(c.Close)
	return c
}

func TestCopySendsEachPageOnceWhateverTheRanges(t *testing.T) {
	const pages = 3000
	mem, start := arena(t, pages)
	fill(mem, 1)
	at := func(page, n uint64) pagestream.Range {
		return pagestream.Range{Start: start + page*pagestream.PageSize, Pages: n}
	}
	var scattered []pagestream.Range
	for p := uint64(0); p < pages; p += 2 {
		scattered = append(scattered, at(p, 1))
	}
	for _, c := range []struct {
		name   string
		ranges []pagestream.Range
		want   uint64
	}{
		{"nothing", nil, 0},
		{"one page", []pagestream.Range{at(7, 1)}, 1},
		{"everything", []pagestream.Range{at(0, pages)}, pages},
		{"every other page", scattered, pages / 2},
		{"adjacent", []pagestream.Range{at(0, 100), at(100, 1), at(101, 500)}, 601},
		{"out of order, overlapping, empty", []pagestream.Range{at(500, 100), at(0, 200), at(100, 150), at(9, 0)}, 350},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSink(3)
			stats, err := newTestCopier(t, s).Copy(t.Context(), ownMemory(c.ranges...), Background)
			if err != nil {
				t.Fatal(err)
			}
			s.check(t)
			if stats != (CopyStats{Sent: c.want}) || s.sent != c.want {
				t.Errorf("stats %+v, %d arrived, want %d pages", stats, s.sent, c.want)
			}
			for _, r := range c.ranges {
				off := r.Start - start
				if bad := s.differing(self, r.Start, mem[off:off+r.Bytes()]); len(bad) > 0 {
					t.Errorf("%d pages of %s differ, first %#x", len(bad), r, bad[0])
				}
			}
		})
	}
}

func TestCopySpreadsOverAllStreams(t *testing.T) {
	const pages = 16384
	_, start := arena(t, pages)
	s := newSink(4)
	// Each stream's first chunk waits for the others': all must be used at the same time.
	var begun atomic.Int32
	all := make(chan struct{})
	s.fail = func(pagestream.Space, []pagestream.Range) error {
		if begun.Add(1) == 4 {
			close(all)
		}
		select {
		case <-all:
			return nil
		case <-time.After(time.Minute):
			return errors.New("a stream is left out")
		}
	}
	if _, err := newTestCopier(t, s).Copy(t.Context(), ownMemory(pagestream.Range{Start: start, Pages: pages}), Background); err != nil {
		t.Fatal(err)
	}
	for i, n := range s.perLane {
		if n == 0 {
			t.Errorf("stream %d carried none of %d pages", i, pages)
		}
	}
}

func TestCopySkipsExactlyWhatIsNotMapped(t *testing.T) {
	const pages = 1024
	p := startPod(t, "holes", pages)
	s := newSink(2)
	stats, err := newTestCopier(t, s).Copy(t.Context(), p.whole(), Background)
	if err != nil {
		t.Fatal(err)
	}
	if want := (CopyStats{Sent: pages - 48, Skipped: 48}); stats.Sent != want.Sent || stats.Skipped != want.Skipped || stats.Gone != 0 {
		t.Errorf("%+v, want %+v", stats, want)
	}
	for n := range uint64(pages) {
		address := p.start + n*pagestream.PageSize
		content, came := s.pages[p.space][address]
		if gone := n%64 >= 61; came == gone {
			t.Fatalf("page %d: unmapped %v, arrived %v", n, gone, came)
		}
		if came && !bytes.Equal(content, memoryOf(t, p.pid, pagestream.Range{Start: address, Pages: 1})) {
			t.Fatalf("page %d differs", n)
		}
	}
}

func TestCopyReadsWhatTheProcessItselfMayNot(t *testing.T) {
	mem, start := arena(t, 64)
	fill(mem, 3)
	want := strings.Clone(string(mem))
	if err := unix.Mprotect(mem[8*pagestream.PageSize:40*pagestream.PageSize], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	s := newSink(1)
	stats, err := newTestCopier(t, s).Copy(t.Context(), ownMemory(pagestream.Range{Start: start, Pages: 64}), Background)
	if err != nil || stats.Sent != 64 {
		t.Fatalf("%+v, %v", stats, err)
	}
	if bad := s.differing(self, start, []byte(want)); len(bad) > 0 {
		t.Errorf("%d pages differ", len(bad))
	}
}

func TestCopyGoesOnWhenAProcessHasEnded(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	mem, start := arena(t, 256)
	fill(mem, 4)
	dead := Memory{
		PID:    child.Process.Pid,
		Space:  pagestream.Space{Kind: pagestream.Process, ID: 9},
		Ranges: []pagestream.Range{{Start: 0x10000, Pages: 5000}, {Start: 1 << 40, Pages: 5000}},
	}
	alive := ownMemory(pagestream.Range{Start: start, Pages: 256})[0]
	for _, c := range []struct {
		name     string
		memories []Memory
		sent     uint64
	}{
		{"first", []Memory{dead, alive}, 256},
		{"last", []Memory{alive, dead}, 256},
		{"alone", []Memory{dead}, 0},
	} {
		for streams := 1; streams <= 2; streams++ {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the copy does not end"))
			stats, err := newTestCopier(t, newSink(streams)).Copy(ctx, c.memories, Background)
			cancel()
			if err != nil {
				t.Fatalf("%s, %d streams: %v", c.name, streams, err)
			}
			if stats.Gone != 10000 || stats.Sent != c.sent {
				t.Errorf("%s, %d streams: %+v, want 10000 pages gone and %d sent", c.name, streams, stats, c.sent)
			}
		}
	}
}

func TestCopySurvivesMemoryThatComesAndGoes(t *testing.T) {
	const pages = 8192
	p := startPod(t, "churn", pages)
	s := newSink(2)
	c := newTestCopier(t, s)
	var skipped uint64
	for end := time.Now().Add(10 * time.Second); skipped == 0 && time.Now().Before(end); {
		stats, err := c.Copy(t.Context(), p.whole(), Background)
		if err != nil || stats.Sent+stats.Skipped != pages {
			t.Fatalf("%+v, %v", stats, err)
		}
		skipped += stats.Skipped
		_ = s.Flush(t.Context())
	}
	if skipped == 0 {
		t.Error("no page ever went missing")
	}
	s.check(t)
}

func TestCopyGoesOnWhenAProcessEndsMeanwhile(t *testing.T) {
	p := startPod(t, "holes", 8192)
	mem, start := arena(t, 256)
	fill(mem, 6)
	s := newSink(2)
	var once sync.Once
	s.fail = func(pagestream.Space, []pagestream.Range) error {
		once.Do(func() { _ = unix.Kill(p.pid, unix.SIGKILL) })
		return nil
	}
	stats, err := newTestCopier(t, s).Copy(t.Context(), append(p.whole(), ownMemory(pagestream.Range{Start: start, Pages: 256})...), Background)
	if err != nil || stats.Sent+stats.Skipped+stats.Gone != 8192+256 {
		t.Fatalf("%+v, %v", stats, err)
	}
	if bad := s.differing(self, start, mem); len(bad) > 0 {
		t.Errorf("%d pages of the process that lives differ", len(bad))
	}
}

func TestCopyEndsWithTheFirstErrorOfAStream(t *testing.T) {
	_, start := arena(t, 4096)
	broken := errors.New("link is down")
	s := newSink(2)
	n := 0
	s.fail = func(pagestream.Space, []pagestream.Range) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n++; n > 3 {
			return broken
		}
		return nil
	}
	c := newTestCopier(t, s)
	_, err := c.Copy(t.Context(), ownMemory(pagestream.Range{Start: start, Pages: 4096}), Background)
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func TestCopyReturnsWhenItsContextEndsThoughAStreamHangs(t *testing.T) {
	_, start := arena(t, 4096)
	release := make(chan struct{})
	s := newSink(2)
	s.fail = func(pagestream.Space, []pagestream.Range) error { <-release; return nil }
	c := NewCopier(s)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err := c.Copy(ctx, ownMemory(pagestream.Range{Start: start, Pages: 4096}), Background)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want canceled", err)
	}
	close(release)
	c.Close()
	if _, err := c.Copy(t.Context(), nil, Background); !errors.Is(err, ErrCopierClosed) {
		t.Errorf("copy after Close: %v", err)
	}
}

func TestCloseEndsACopyUnderWay(t *testing.T) {
	_, start := arena(t, 4096)
	s := newSink(1)
	inside := make(chan struct{}, 4096)
	s.fail = func(pagestream.Space, []pagestream.Range) error {
		inside <- struct{}{}
		time.Sleep(time.Millisecond)
		return nil
	}
	c := NewCopier(s)
	got := make(chan error)
	go func() {
		_, err := c.Copy(t.Context(), ownMemory(pagestream.Range{Start: start, Pages: 4096}), Background)
		got <- err
	}()
	<-inside
	c.Close()
	if err := <-got; !errors.Is(err, ErrCopierClosed) {
		t.Errorf("error %v, want %v", err, ErrCopierClosed)
	}
}

func TestCopiesMayRunAtTheSameTime(t *testing.T) {
	const pages = 2048
	s := newSink(2)
	c := newTestCopier(t, s)
	var wg sync.WaitGroup
	for id := range uint64(4) {
		mem, start := arena(t, pages)
		fill(mem, id)
		space := pagestream.Space{Kind: pagestream.Process, ID: id + 1}
		wg.Go(func() {
			_, err := c.Copy(t.Context(), []Memory{{os.Getpid(), space, []pagestream.Range{{Start: start, Pages: pages}}}}, Background)
			if bad := s.differing(space, start, mem); err != nil || len(bad) > 0 {
				t.Errorf("copy %d: %v, %d pages differ", id, err, len(bad))
			}
		})
	}
	wg.Wait()
}

func TestACopyAllocatesNothingForAChunk(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector sync.Pool allocates at random")
	}
	const pages = 65536
	_, start := arena(t, pages)
	var ranges []pagestream.Range
	for p := uint64(0); p < pages; p += 2 {
		ranges = append(ranges, pagestream.Range{Start: start + p*pagestream.PageSize, Pages: 1})
	}
	c := newTestCopier(t, null{2})
	mem := ownMemory(ranges...)
	if _, err := c.Copy(t.Context(), mem, Background); err != nil {
		t.Fatal(err)
	}
	got := testing.AllocsPerRun(3, func() { _, _ = c.Copy(context.Background(), mem, Background) })
	if chunks := float64(pages / 2 / chunkPages); got > chunks/8 {
		t.Errorf("%.0f allocations for %.0f chunks", got, chunks)
	}
}

func TestMemoryOfACopierIsItsBuffers(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector sync.Pool allocates at random")
	}
	const pages, streams = 131072, 8
	_, start := arena(t, pages)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := newTestCopier(t, null{streams})
	if _, err := c.Copy(t.Context(), ownMemory(pagestream.Range{Start: start, Pages: pages}), Background); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(streams*chunkBytes+1<<20); got > most {
		t.Errorf("allocated %d bytes for %d pages over %d streams, want at most %d", got, pages, streams, most)
	}
}

func BenchmarkCopy(b *testing.B) {
	const pages = 131072
	mem, start := arena(b, pages)
	fill(mem, 1)
	whole := []pagestream.Range{{Start: start, Pages: pages}}
	var scattered []pagestream.Range
	for p := uint64(0); p < pages; p += 4 {
		scattered = append(scattered, pagestream.Range{Start: start + p*pagestream.PageSize, Pages: 1})
	}
	for _, c := range []struct {
		name    string
		streams int
		ranges  []pagestream.Range
	}{{"whole/1", 1, whole}, {"whole/2", 2, whole}, {"whole/4", 4, whole}, {"scattered/2", 2, scattered}} {
		b.Run(c.name, func(b *testing.B) {
			copier := NewCopier(null{c.streams})
			defer copier.Close()
			b.SetBytes(int64(pagesOf(c.ranges) * pagestream.PageSize))
			for b.Loop() {
				if _, err := copier.Copy(b.Context(), ownMemory(c.ranges...), Urgent); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
