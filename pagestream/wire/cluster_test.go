package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/wire/pki"
)

// cluster is an authority of a test and the credentials of its nodes.
type cluster struct {
	t     testing.TB
	caDir string
	mu    sync.Mutex // guards nodes
	nodes map[string]*Credentials
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t, caDir: filepath.Join(t.TempDir(), "ca"), nodes: make(map[string]*Credentials)}
	if err := pki.Init(c.caDir); err != nil {
		t.Fatal(err)
	}
	return c
}

// dir issues a certificate for a node and returns its directory.
func (c *cluster) dir(node string) string {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), node)
	if err := pki.Issue(c.caDir, node, nil, dir); err != nil {
		c.t.Fatal(err)
	}
	return dir
}

func (c *cluster) node(name string) *Credentials {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes[name] == nil {
		creds, err := LoadCredentials(c.dir(name))
		if err != nil {
			c.t.Fatal(err)
		}
		c.nodes[name] = creds
	}
	return c.nodes[name]
}

// listen starts node b with the given admission and stops it with the test.
func (c *cluster) listen(admit Admit, options ...Option) *Listener {
	c.t.Helper()
	options = append([]Option{WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))}, options...)
	l, err := Listen("127.0.0.1:0", c.node("b"), options...)
	if err != nil {
		c.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.Serve(context.Background(), admit) }()
	c.t.Cleanup(func() {
		l.Close()
		if err := <-served; err != nil {
			c.t.Errorf("Serve = %v", err)
		}
	})
	return l
}

// options are those of node a that dials b, which is reached at addr.
func (c *cluster) options(addr net.Addr) DialOptions {
	return DialOptions{
		Address: addr.String(), ServerName: "b", Credentials: c.node("a"),
		Migration: "m-1", Token: [32]byte{1, 2, 3}, Streams: 2, Timeout: 5 * time.Second,
	}
}

func (c *cluster) dial(o DialOptions) *Session {
	c.t.Helper()
	s, err := Dial(context.Background(), o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { s.Abort(errors.New("test is over")) })
	return s
}

// to makes an admission that gives every session the same receiver.
func to(r Receiver) Admit { return func(Hello, string) (Receiver, error) { return r, nil } }

var space = pagestream.Space{Container: 0, Kind: pagestream.Process, ID: 1}

// memory is a receiver that stores pages in a map.
type memory struct {
	mu     sync.Mutex // guards what follows
	pages  map[uint64][]byte
	blobs  map[uint32][][]byte
	calls  int
	before func() error // called before each store
	closed chan error
}

func newMemory() *memory {
	return &memory{pages: make(map[uint64][]byte), blobs: make(map[uint32][][]byte), closed: make(chan error, 1)}
}

func (m *memory) enter() error {
	if m.before != nil {
		return m.before()
	}
	return nil
}

func (m *memory) Pages(_ pagestream.Space, vaddr uint64, data []byte) error {
	if err := m.enter(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	for at := 0; at < len(data); at += pagestream.PageSize {
		m.pages[vaddr+uint64(at)] = append([]byte(nil), data[at:at+pagestream.PageSize]...)
	}
	return nil
}

func (m *memory) Zero(_ pagestream.Space, vaddr, pages uint64) error {
	if err := m.enter(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	for i := range pages {
		m.pages[vaddr+i*pagestream.PageSize] = nil
	}
	return nil
}

func (m *memory) Stored(_ pagestream.Space, vaddr uint64, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := 0; at < len(data); at += pagestream.PageSize {
		page, ok := m.pages[vaddr+uint64(at)]
		if !ok {
			return fmt.Errorf("page %#x never came", vaddr+uint64(at))
		}
		clear(data[at : at+pagestream.PageSize])
		copy(data[at:], page)
	}
	return nil
}

func (m *memory) Blob(channel uint32, payload []byte) error {
	if err := m.enter(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[channel] = append(m.blobs[channel], append([]byte(nil), payload...))
	return nil
}

func (m *memory) Closed(err error) { m.closed <- err }

// end waits until the session has ended and returns with what.
func (m *memory) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-m.closed:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("Closed is not called")
		return nil
	}
}

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
