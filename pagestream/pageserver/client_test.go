package pageserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// client talks as criu does (criu/page-xfer.c), in either layout.
type client struct {
	net.Conn
	layout Layout
}

func (c client) send(m message) error {
	_, err := c.Write(c.layout.append(nil, m))
	return err
}

func (c client) ask(m message, reply int) ([]byte, error) {
	if err := c.send(m); err != nil {
		return nil, err
	}
	b := make([]byte, reply)
	_, err := io.ReadFull(c, b)
	return b, err
}

func (c client) parent(space pagestream.Space) (bool, error) {
	b, err := c.ask(message{cmd: cmdParent, dst: dstOf(space)}, 4)
	return err == nil && binary.NativeEndian.Uint32(b) == 1, err
}

func (c client) open(space pagestream.Space) (bool, error) {
	b, err := c.ask(message{cmd: cmdOpen2, dst: dstOf(space)}, 1)
	return err == nil && b[0] == 1, err
}

func (c client) pages(space pagestream.Space, flags images.Flags, vaddr uint64, data []byte) error {
	m := message{cmd: cmdAddFlags, flags: flags, pages: uint64(len(data)) / pagestream.PageSize, vaddr: vaddr, dst: dstOf(space)}
	if err := c.send(m); err != nil {
		return err
	}
	_, err := c.Write(data)
	return err
}

func (c client) entry(space pagestream.Space, flags images.Flags, r pagestream.Range) error {
	return c.send(message{cmd: cmdAddFlags, flags: flags, pages: r.Pages, vaddr: r.Start, dst: dstOf(space)})
}

func (c client) close() (int32, error) {
	b, err := c.ask(message{cmd: cmdForceClose}, 4)
	if err != nil {
		return 0, err
	}
	return int32(binary.NativeEndian.Uint32(b)), nil
}

// sink is a destination: what arrived last of each page, by all of its streams.
type sink struct {
	mu    sync.Mutex // guards what follows
	pages map[pagestream.Space]map[uint64][]byte
	calls int
	fail  error         // of every call
	gate  chan struct{} // if not nil, a call waits for a token
}

func newSink() *sink { return &sink{pages: make(map[pagestream.Space]map[uint64][]byte)} }

func (s *sink) streams(n int) []Pages {
	out := make([]Pages, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func (s *sink) Runs(space pagestream.Space, runs []pagestream.Range, data []byte) error {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.fail != nil {
		return s.fail
	}
	if len(runs) > MaxRuns || len(data) > ChunkBytes || len(data) == 0 {
		return errors.New("sink: call out of bounds")
	}
	m := s.pages[space]
	if m == nil {
		m = make(map[uint64][]byte)
		s.pages[space] = m
	}
	end := uint64(0)
	for _, r := range runs {
		if r.Valid() != nil || r.Start < end || r.Bytes() > uint64(len(data)) {
			return errors.New("sink: runs are wrong")
		}
		end = r.End()
		for a := r.Start; a < r.End(); a += pagestream.PageSize {
			m[a] = bytes.Clone(data[:pagestream.PageSize])
			data = data[pagestream.PageSize:]
		}
	}
	if len(data) > 0 {
		return errors.New("sink: data beyond the runs")
	}
	return nil
}

func (s *sink) drop(gone map[pagestream.Space][]pagestream.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for space, ranges := range gone {
		for _, r := range ranges {
			for a := r.Start; a < r.End(); a += pagestream.PageSize {
				delete(s.pages[space], a)
			}
		}
	}
}

func (s *sink) content(space pagestream.Space, r pagestream.Range) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b []byte
	for a := r.Start; a < r.End(); a += pagestream.PageSize {
		b = append(b, s.pages[space][a]...)
	}
	return b
}

// outcome is what Serve returned.
type outcome struct {
	round *Round
	err   error
}

// serving is a Serve under way and its client.
type serving struct {
	client
	t    *testing.T
	done chan outcome
}

func serve(t *testing.T, l Layout, c Config) *serving {
	t.Helper()
	return serveContext(t.Context(), t, l, c)
}

func serveContext(ctx context.Context, t *testing.T, l Layout, c Config) *serving {
	t.Helper()
	conn, file, err := StreamPair() // tests write anything at once
	must(t, err)
	near, err := net.FileConn(file)
	must(t, err)
	must(t, file.Close())
	t.Cleanup(func() { near.Close() })
	s := &serving{client: client{near, l}, t: t, done: make(chan outcome, 1)}
	go func() {
		r, err := Serve(ctx, conn, c)
		s.done <- outcome{r, err}
	}()
	return s
}

// end waits for Serve.
func (s *serving) end() (*Round, error) {
	s.t.Helper()
	select {
	case o := <-s.done:
		return o.round, o.err
	case <-time.After(20 * time.Second):
		s.t.Fatal("Serve does not return")
		return nil, nil
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func process(pid uint64) pagestream.Space {
	return pagestream.Space{Kind: pagestream.Process, ID: pid}
}

func shared(id uint64) pagestream.Space {
	return pagestream.Space{Kind: pagestream.Shared, ID: id}
}

// random is content that compresses and repeats nowhere.
func random(seed byte, pages int) []byte {
	b := make([]byte, pages*pagestream.PageSize)
	r := rand.NewChaCha8([32]byte{seed})
	r.Read(b)
	return b
}

var layouts = []Layout{Layout24, Layout32}
