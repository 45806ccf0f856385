package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

const page = pagestream.PageSize

// mixture is memory with zero pages, random pages and pages of text.
func mixture(pages int) []byte {
	memory := make([]byte, pages*page)
	text := make([]byte, page)
	fillText(text)
	rng := rand.New(rand.NewPCG(5, 6))
	source := rand.NewChaCha8([32]byte{2})
	for at := 0; at < len(memory); at += page {
		switch rng.UintN(3) {
		case 1:
			source.Read(memory[at : at+page])
		case 2:
			copy(memory[at:], text)
		}
	}
	return memory
}

// check compares what is stored from vaddr on with memory.
func (m *memory) check(t *testing.T, vaddr uint64, want []byte) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := 0; at < len(want); at += page {
		got, there := m.pages[vaddr+uint64(at)]
		if got == nil {
			got = zeroPage[:]
		}
		if !there || !bytes.Equal(got, want[at:at+page]) {
			t.Fatalf("page at %#x is not what was sent (stored: %v)", vaddr+uint64(at), there)
		}
	}
}

func TestMemoryArrivesUnchanged(t *testing.T) {
	for _, compression := range []Compression{Auto, NoCompression, LZ4, Zstd} {
		t.Run(compression.String(), func(t *testing.T) {
			c := newCluster(t)
			r := newMemory()
			o := c.options(c.listen(to(r)).Addr())
			o.Compression = compression
			s := c.dial(o)
			want := mixture(1500)
			buffer := make([]byte, MaxData)
			for at := 0; at < len(want); at += MaxData {
				n := copy(buffer, want[at:])
				if err := s.Stream(at/MaxData%2).Pages(space, uint64(at), buffer[:n]); err != nil {
					t.Fatal(err)
				}
				clear(buffer) // ours again once Pages has returned
			}
			if err := s.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			r.check(t, 0, want)
			stats := s.Stats()
			zero := uint64(0)
			for at := 0; at < len(want); at += page {
				if isZero(want[at : at+page]) {
					zero++
				}
			}
			if stats.ZeroPages != zero || stats.Pages != 1500-zero || stats.RawBytes != stats.Pages*page {
				t.Errorf("%+v, want %d zero pages of 1500", stats, zero)
			}
			if stats.Acked != stats.WireBytes {
				t.Errorf("%d of %d bytes acknowledged after Flush", stats.Acked, stats.WireBytes)
			}
			if compressed := stats.FramesLZ4+stats.FramesZstd > 0; compressed != (compression != NoCompression) && compression != Auto {
				t.Errorf("%+v", stats)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := r.end(t); err != nil {
				t.Errorf("Closed(%v)", err)
			}
		})
	}
}

func TestZeroPagesCrossTheWireAsRunsOnly(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	s := c.dial(c.options(c.listen(to(r)).Addr()))
	if err := s.Stream(0).Pages(space, 0, make([]byte, MaxData)); err != nil {
		t.Fatal(err)
	}
	if err := s.Stream(0).Zero(space, 1<<30, 1000); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.check(t, 0, make([]byte, MaxData))
	r.check(t, 1<<30, make([]byte, 1000*page))
	if stats := s.Stats(); stats.WireBytes > 10*headerSize || stats.Pages != 0 || r.calls != 2 {
		t.Errorf("%+v in %d calls", stats, r.calls)
	}
}

func TestScatteredPagesShareFrames(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	o := c.options(c.listen(to(r)).Addr())
	o.Compression = NoCompression
	s := c.dial(o)
	data := mixture(MaxData / page)
	var runs []pagestream.Range
	for i := range uint64(MaxData / page) {
		runs = append(runs, pagestream.Range{Start: i * 16 * page, Pages: 1})
	}
	if err := s.Stream(1).Runs(space, runs, data); err != nil {
		t.Fatal(err)
	}
	var holes []pagestream.Range
	for i := range uint64(3000) {
		holes = append(holes, pagestream.Range{Start: 1<<40 + i*16*page, Pages: 2})
	}
	if err := s.Stream(1).ZeroRuns(space, holes); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, run := range runs {
		r.check(t, run.Start, data[i*page:(i+1)*page])
	}
	for _, hole := range holes {
		r.check(t, hole.Start, make([]byte, 2*page))
	}
	stats := s.Stats()
	frames := (stats.WireBytes - stats.RawBytes - 3128*runSize) / headerSize
	if frames > 8 { // one of data, three of holes, two barriers
		t.Errorf("%d frames: %+v", frames, stats)
	}
}

func TestBlobsArriveInOrderOfTheirStream(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	s := c.dial(c.options(c.listen(to(r)).Addr()))
	large := make([]byte, MaxBlob)
	fillText(large)
	sent := [][]byte{{}, []byte("one"), large, []byte("two")}
	for _, b := range sent {
		if err := s.Stream(0).Blob(7, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(r.blobs[7]) != len(sent) {
		t.Fatalf("%d blobs", len(r.blobs[7]))
	}
	for i := range sent {
		if !bytes.Equal(r.blobs[7][i], sent[i]) {
			t.Errorf("blob %d is another", i)
		}
	}
	if err := s.Stream(0).Blob(7, make([]byte, MaxBlob+1)); err == nil {
		t.Error("a blob over the limit is taken")
	}
	if err := s.Stream(0).Blob(7, nil); err != nil {
		t.Errorf("a bad argument ended the session: %v", err)
	}
}

func TestSmallFramesDoNotWaitForMore(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	arrived := make(chan struct{}, 1)
	r.before = func() error { arrived <- struct{}{}; return nil }
	o := c.options(c.listen(to(r)).Addr())
	o.Timeout = time.Minute // no keepalive in between
	s := c.dial(o)
	if err := s.Stream(0).Blob(1, []byte("soon")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-arrived:
	case <-time.After(5 * time.Second):
		t.Error("a blob lies in the sender's buffers")
	}
}

func TestBadArgumentsAreRefusedAndTheSessionGoesOn(t *testing.T) {
	c := newCluster(t)
	s := c.dial(c.options(c.listen(to(newMemory())).Addr()))
	st := s.Stream(0)
	one := []pagestream.Range{{Start: 0, Pages: 1}}
	for name, err := range map[string]error{
		"too much":          st.Pages(space, 0, make([]byte, MaxData+page)),
		"no data":           st.Pages(space, 0, nil),
		"half a page":       st.Pages(space, 0, make([]byte, page/2)),
		"more than a page":  st.Pages(space, 0, make([]byte, page+1)),
		"unaligned":         st.Pages(space, 1, make([]byte, page)),
		"no space":          st.Pages(pagestream.Space{}, 0, make([]byte, page)),
		"fewer runs":        st.Runs(space, one, make([]byte, 2*page)),
		"more runs":         st.Runs(space, append(one, one...), make([]byte, page)),
		"zero of no pages":  st.Zero(space, 0, 0),
		"zero over the top": st.Zero(space, pagestream.MaxAddress-page, 2),
		"zero of no space":  st.Zero(pagestream.Space{}, 0, 1),
	} {
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestFlushReturnsAfterEverythingIsStored(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	var stored atomic.Int64
	r.before = func() error {
		time.Sleep(5 * time.Millisecond) // a slow disk
		stored.Add(1)
		return nil
	}
	o := c.options(c.listen(to(r)).Addr())
	o.Streams = 4
	s := c.dial(o)
	for round := range 5 {
		for i := range 4 * 3 {
			if err := s.Stream(i%4).Blob(1, []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := stored.Load(); got != int64(12*(round+1)) {
			t.Errorf("round %d: Flush returned with %d stored", round, got)
		}
	}
}

func TestPageOfALaterRoundWins(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	o := c.options(c.listen(to(r)).Addr())
	o.Streams = 4
	s := c.dial(o)
	data := make([]byte, 64*page)
	for round := range 20 {
		for at := 0; at < len(data); at += 8 {
			binary.LittleEndian.PutUint64(data[at:], uint64(round+1))
		}
		var senders sync.WaitGroup
		for i := range 4 { // another stream carries each part in each round
			senders.Go(func() {
				part := (i + round) % 4 * 16 * page
				if err := s.Stream(i).Pages(space, uint64(part), data[part:part+16*page]); err != nil {
					t.Error(err)
				}
			})
		}
		senders.Wait()
		if err := s.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.check(t, 0, data)
	}
}

func TestFlushGivesUpWithItsContextAndTheSessionGoesOn(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	release := make(chan struct{})
	r.before = func() error { <-release; return nil }
	s := c.dial(c.options(c.listen(to(r)).Addr()))
	if err := s.Stream(0).Blob(1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush = %v", err)
	}
	close(release)
	if err := s.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestReceiversErrorComesBackToTheSender(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	full := errors.New("store: no space left: 12 of 12 MiB used")
	r.before = func() error { return full }
	s := c.dial(c.options(c.listen(to(r)).Addr()))
	data := mixture(MaxData / page)
	var err error
	for range 1000 { // far more than the window
		if err = s.Stream(0).Pages(space, 0, data); err != nil {
			break
		}
	}
	var remote *RemoteError
	if !errors.As(err, &remote) || err.Error() != "peer b: "+full.Error() {
		t.Errorf("Pages = %v", err)
	}
	if err := s.Flush(context.Background()); !errors.As(err, &remote) {
		t.Errorf("Flush = %v", err)
	}
	if err := s.Stream(1).Blob(1, nil); !errors.As(err, &remote) {
		t.Errorf("Blob on another stream = %v", err)
	}
	if err := s.Close(); !errors.As(err, &remote) {
		t.Errorf("Close = %v", err)
	}
	if err := r.end(t); !errors.Is(err, full) || !strings.Contains(err.Error(), "peer a: stream 0") {
		t.Errorf("Closed(%v)", err)
	}
}

func TestSlowReceiverBoundsWhatIsUnderWay(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	release := make(chan struct{})
	r.before = func() error { <-release; return nil }
	o := c.options(c.listen(to(r)).Addr())
	o.Streams, o.Window = 1, MinWindow
	s := c.dial(o)
	data := make([]byte, MaxData)
	fillRandom(data)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const calls = 20
	sent := make(chan error, 1)
	go func() {
		for i := range calls {
			if err := s.Stream(0).Pages(space, uint64(i*MaxData), data); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for last := uint64(1); last != s.Stats().WireBytes; time.Sleep(200 * time.Millisecond) {
		last = s.Stats().WireBytes
	}
	if under := s.Stats().WireBytes - s.Stats().Acked; under > MinWindow+10*headerSize || under < MaxData {
		t.Errorf("%d bytes under way, the window has %d", under, MinWindow)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	close(release)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s.Stats().Blocked < 100*time.Millisecond {
		t.Errorf("blocked for %v", s.Stats().Blocked)
	}
}

func TestFrameThatWasSpoiledEndsTheSession(t *testing.T) {
	for name, at := range map[string]int{"checksum": sumOffset, "address space": 24} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			r := newMemory()
			s := c.dial(c.options(c.listen(to(r)).Addr()))
			s.Stream(1).tamper = func(head *[headerSize]byte) { head[at] ^= 4 }
			if err := s.Stream(1).Pages(space, 0, bytes.Repeat([]byte{1}, page)); err != nil {
				t.Fatal(err)
			}
			err := s.Flush(context.Background())
			var remote *RemoteError
			if !errors.As(err, &remote) || !strings.Contains(err.Error(), ErrChecksum.Error()) {
				t.Errorf("Flush = %v", err)
			}
			if err := r.end(t); !errors.Is(err, ErrChecksum) {
				t.Errorf("Closed(%v)", err)
			}
			if r.calls != 0 {
				t.Error("the receiver got it")
			}
		})
	}
}

func TestAbortTellsTheReceiverWhy(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	s := c.dial(c.options(c.listen(to(r)).Addr()))
	cause := errors.New("container has exited")
	s.Abort(cause)
	var remote *RemoteError
	if err := r.end(t); !errors.As(err, &remote) || !strings.Contains(err.Error(), "container has exited") {
		t.Errorf("Closed(%v)", err)
	}
	for name, err := range map[string]error{
		"Blob": s.Stream(0).Blob(1, nil), "Flush": s.Flush(context.Background()), "Close": s.Close(), "Err": s.Err(),
	} {
		if !errors.Is(err, cause) {
			t.Errorf("%s = %v", name, err)
		}
	}
}

func TestAbortFreesACallThatWaits(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	release := make(chan struct{})
	r.before = func() error { <-release; return nil }
	o := c.options(c.listen(to(r)).Addr())
	t.Cleanup(func() { close(release) }) // before the listener is closed, which waits for the receiver
	o.Window = MinWindow
	s := c.dial(o)
	cause := errors.New("cancelled")
	sent := make(chan error, 1)
	data := make([]byte, MaxData)
	fillRandom(data)
	go func() {
		for {
			if err := s.Stream(0).Pages(space, 0, data); err != nil {
				sent <- err
				return
			}
		}
	}()
	for s.Stats().WireBytes < MinWindow/2 {
		runtime.Gosched()
	}
	start := time.Now()
	s.Abort(cause)
	if err := <-sent; !errors.Is(err, cause) {
		t.Errorf("Pages = %v", err)
	}
	if took := time.Since(start); took > 3*abortGrace {
		t.Errorf("Abort took %v", took)
	}
}

func TestCallsAfterCloseSaySo(t *testing.T) {
	c := newCluster(t)
	s := c.dial(c.options(c.listen(to(newMemory())).Addr()))
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"Blob": s.Stream(0).Blob(1, nil), "Flush": s.Flush(context.Background()), "Err": s.Err(),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s = %v", name, err)
		}
	}
}

func TestListenersCloseEndsSessions(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	l := c.listen(to(r))
	s := c.dial(c.options(l.Addr()))
	if err := s.Stream(0).Blob(1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	<-s.Done()
	var remote *RemoteError
	if err := s.Err(); !errors.As(err, &remote) || !strings.Contains(err.Error(), ErrShutdown.Error()) {
		t.Errorf("session ended with %v", err)
	}
	select {
	case err := <-r.closed:
		if !errors.Is(err, ErrShutdown) {
			t.Errorf("Closed(%v)", err)
		}
	default:
		t.Error("Close returned before Closed was called")
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	c := newCluster(t)
	l, err := Listen("127.0.0.1:0", c.node("b"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx, to(newMemory())) }()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if err := l.Serve(context.Background(), to(newMemory())); err == nil {
		t.Error("Serve after Close serves")
	}
}

func TestManySessionsAndStreamsAtOnce(t *testing.T) {
	c := newCluster(t)
	var mu sync.Mutex // guards receivers
	receivers := make(map[string]*memory)
	l := c.listen(func(h Hello, _ string) (Receiver, error) {
		mu.Lock()
		defer mu.Unlock()
		receivers[h.Migration] = newMemory()
		return receivers[h.Migration], nil
	})
	want := mixture(400)
	var sessions sync.WaitGroup
	for i := range 4 {
		sessions.Go(func() {
			o := c.options(l.Addr())
			o.Migration, o.Streams = fmt.Sprint("m-", i), 8
			s, err := Dial(context.Background(), o)
			if err != nil {
				t.Error(err)
				return
			}
			var senders sync.WaitGroup
			for st := range 8 {
				senders.Go(func() {
					from := st * 50 * page
					for at := from; at < from+50*page; at += 10 * page {
						if err := s.Stream(st).Pages(space, uint64(at), want[at:at+10*page]); err != nil {
							t.Error(err)
						}
						if err := s.Flush(context.Background()); err != nil { // barriers from everywhere
							t.Error(err)
						}
					}
				})
			}
			senders.Wait()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	sessions.Wait()
	for _, r := range receivers {
		if err := r.end(t); err != nil {
			t.Errorf("Closed(%v)", err)
		}
		r.check(t, 0, want)
	}
}

func TestBandwidthIsShared(t *testing.T) {
	c := newCluster(t)
	o := c.options(c.listen(to(newMemory())).Addr())
	o.Bandwidth = 8 << 20
	s := c.dial(o)
	data := make([]byte, 128<<10)
	fillRandom(data)
	start := time.Now()
	var senders sync.WaitGroup
	for i := range 2 {
		senders.Go(func() {
			for range 16 {
				if err := s.Stream(i).Blob(1, data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()
	// 4 MiB at 8 MiB/s, less the frame that may be owed and the burst.
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("took %v, want half a second or more", took)
	}
	if s.Stats().Throttled == 0 {
		t.Error("no throttling is counted")
	}
	s.SetBandwidth(0)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestUrgentFramesPassWhatIsHeldBack(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	o := c.options(c.listen(to(r)).Addr())
	o.Streams = 3
	s := c.dial(o)
	s.SetShare(0, true)
	bulk, late := make(chan error, 1), make(chan error, 1)
	go func() { bulk <- s.Stream(0).Pages(space, 0, mixture(4)) }()
	go func() { late <- s.Stream(2).Pages(space, 1<<30, mixture(4)) }()
	s.Stream(1).SetUrgent(true)
	if err := s.Stream(1).Pages(space, 1<<20, mixture(4)); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatalf("a flush while bulk is held back: %v", err)
	}
	if sent := s.Stats().Pages; sent == 0 || sent > 4 {
		t.Errorf("%d pages sent, the urgent ones alone were to pass", sent)
	}
	s.Stream(2).SetUrgent(true)
	if err := <-late; err != nil {
		t.Error(err)
	}
	select {
	case err := <-bulk:
		t.Errorf("bulk has passed: %v", err)
	default:
	}
	s.SetBandwidth(0)
	if err := <-bulk; err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestAutoCompressesForASlowLinkAndNotForNothing(t *testing.T) {
	text, random := make([]byte, 64<<10), make([]byte, 64<<10)
	fillText(text)
	fillRandom(random)
	for name, test := range map[string]struct {
		data     []byte
		frames   int
		compress bool
	}{"text": {text, 60, true}, "random": {random, 20, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			c := newCluster(t)
			o := c.options(c.listen(to(newMemory())).Addr())
			o.Streams, o.Bandwidth = 1, 512<<10
			s := c.dial(o)
			for range test.frames {
				if err := s.Stream(0).Pages(space, 0, test.data); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			stats := s.Stats()
			if compressed := stats.WireBytes < stats.RawBytes*3/4; compressed != test.compress {
				t.Errorf("%+v", stats)
			}
		})
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	l := c.listen(to(r))
	for _, end := range []func(*Session){
		func(s *Session) { s.Close() },
		func(s *Session) { s.Abort(errors.New("x")) },
		func(s *Session) { s.fail(errors.New("x")); s.Close() },
	} {
		s := c.dial(c.options(l.Addr()))
		s.Stream(0).Pages(space, 0, mixture(100))
		end(s)
		r.end(t)
	}
	l.Close()
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		for _, ours := range []string{"wire.(*Stream)", "wire.(*Session)", "wire.(*inbound)", "wire.(*Listener).handle", "wire.(*reception)"} {
			if strings.Contains(stack, ours) {
				t.Errorf("still runs:\n%s", stack)
			}
		}
	}
}
