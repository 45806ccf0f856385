package wire

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

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
