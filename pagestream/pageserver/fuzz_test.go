package pageserver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

func FuzzMessage(f *testing.F) {
	for _, l := range layouts {
		for _, m := range []message{
			{cmd: cmdOpen2, dst: dstOf(process(1))},
			{cmd: cmdParent, dst: dstOf(shared(1<<32 - 1))},
			{cmd: cmdAddFlags, flags: images.Present | images.Lazy, pages: 17, vaddr: base, dst: dstOf(process(1 << 22))},
			{cmd: cmdGet, pages: 1, vaddr: base, dst: 5},
			{cmd: cmdForceClose},
		} {
			f.Add(l.append(nil, m))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, l := range layouts {
			if len(b) < l.size() {
				continue
			}
			m := l.decode(b)
			again := l.append(nil, m)
			if l == Layout32 { // its padding may be anything
				copy(again[4:8], b[4:8])
			}
			if !bytes.Equal(again, b[:l.size()]) {
				t.Errorf("%s: %x became %x", l, b[:l.size()], again)
			}
			_ = m.String()
			s, err := spaceOf(1, m.dst)
			if err == nil && (s.Valid() != nil || dstOf(s) != m.dst) {
				t.Errorf("dst_id %#x is %s", m.dst, s)
			}
			if err != nil && !errors.Is(err, ErrProtocol) {
				t.Error(err)
			}
		}
		if len(b) < size24 {
			return
		}
		if l, err := detect(b[:size24]); (err != nil) != (l == LayoutUnknown && !isClose(b)) {
			t.Errorf("%x: %s, %v", b, l, err)
		}
	})
}

func isClose(b []byte) bool {
	c := Layout24.decode(b).cmd
	return c == cmdClose || c == cmdForceClose
}

// FuzzConversation says anything to a server. Whatever it is, Serve returns, and
// what it hands to the streams is what its page map says, within its bounds.
func FuzzConversation(f *testing.F) {
	for _, l := range layouts {
		data := random(1, 2)
		open := l.append(nil, message{cmd: cmdOpen2, dst: dstOf(process(1))})
		add := l.append(nil, message{cmd: cmdAddFlags, flags: images.Present, pages: 2, vaddr: base, dst: dstOf(process(1))})
		hole := l.append(nil, message{cmd: cmdAddFlags, flags: images.Parent, pages: 3, vaddr: base + 4*pagestream.PageSize, dst: dstOf(process(1))})
		end := l.append(nil, message{cmd: cmdClose})
		f.Add(bytes.Join([][]byte{open, add, data, end}, nil), true)
		f.Add(bytes.Join([][]byte{open, hole, end}, nil), true)
		f.Add(bytes.Join([][]byte{open, add, data[:5000]}, nil), false)
		f.Add(bytes.Join([][]byte{open, add, data, open, end}, nil), false)
		f.Add(l.append(nil, message{cmd: cmdGet, pages: 1, vaddr: base, dst: 5}), true)
	}
	f.Fuzz(func(t *testing.T, say []byte, pair bool) {
		x, err := NewIndex()
		must(t, err)
		defer x.Close()
		s := newSink()
		conn, near := connect(t, pair)
		done := make(chan outcome, 1)
		go func() {
			r, err := Serve(t.Context(), conn, Config{Out: s.streams(2), Index: x, Buffer: 1, Idle: 5 * time.Second})
			done <- outcome{r, err}
		}()
		go io.Copy(io.Discard, near) // the answers
		near.Write(say)
		near.Close()
		o := <-done
		if o.err != nil {
			if !errors.Is(o.err, ErrProtocol) && !errors.Is(o.err, ErrClientGone) && !errors.Is(o.err, ErrHole) {
				t.Error(o.err)
			}
			if _, err := x.Commit(o.round); !errors.Is(err, ErrState) {
				t.Error("a failed round was committed:", err)
			}
			return
		}
		if _, err := x.Commit(o.round); err != nil {
			t.Error(err)
		}
		for space, entries := range o.round.Map {
			present := chosen(entries, images.Entry.Present)
			if got := uint64(len(s.pages[space])); got != pagesOf(present) {
				t.Errorf("space %s: %d pages, its map says %d", space, got, pagesOf(present))
			}
		}
	})
}

// connect makes a connection, with a file descriptor or without.
func connect(t testing.TB, pair bool) (conn, near net.Conn) {
	if !pair {
		return net.Pipe()
	}
	conn, file, err := StreamPair()
	must(t, err)
	near, err = net.FileConn(file)
	must(t, err)
	must(t, file.Close())
	return conn, near
}

func FuzzRecordedConversationCutAnywhere(f *testing.F) {
	for _, file := range []string{"criu-4.1-soft-dirty-splice-2.gz", "criu-4.2-soft-dirty-splice-2.gz"} {
		var said []byte
		for _, l := range readTape(f, filepath.Join("testdata", file)) {
			if l.fromClient {
				said = append(said, l.data...)
			}
		}
		f.Add(said, 40, byte(1))
	}
	f.Fuzz(func(t *testing.T, said []byte, at int, mask byte) {
		if at < 0 || at >= len(said) {
			return
		}
		said = bytes.Clone(said)
		said[at] ^= mask
		conn, near := connect(t, true)
		done := make(chan outcome, 1)
		go func() {
			r, err := Serve(t.Context(), conn, Config{Out: newSink().streams(1), Idle: 5 * time.Second})
			done <- outcome{r, err}
		}()
		near.Write(said)
		near.Close()
		<-done
	})
}
