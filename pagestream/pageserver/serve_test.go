package pageserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

const base = 0x7f0000000000

func at(page uint64, pages uint64) pagestream.Range {
	return pagestream.Range{Start: base + page*pagestream.PageSize, Pages: pages}
}

func newIndex(t *testing.T) *Index {
	t.Helper()
	x, err := NewIndex()
	must(t, err)
	t.Cleanup(x.Close)
	return x
}

// dump has a client dump one process whole, and commits.
func dump(t *testing.T, x *Index, s *sink, l Layout, data []byte) {
	t.Helper()
	v := serve(t, l, Config{Out: s.streams(2), Index: x})
	_, err := v.open(process(1))
	must(t, err)
	must(t, v.pages(process(1), images.Present, base, data))
	status, err := v.close()
	must(t, err)
	r, err := v.end()
	must(t, err)
	if status != 0 {
		t.Fatalf("status %d", status)
	}
	_, err = x.Commit(r)
	must(t, err)
}

func TestADumpReachesTheStreams(t *testing.T) {
	for _, l := range layouts {
		t.Run(l.String(), func(t *testing.T) {
			s := newSink()
			v := serve(t, l, Config{Container: 3, Out: s.streams(2), Flush: func(context.Context) error { return nil }})
			space, mem := process(7), shared(99)
			big, small := random(1, 2000), random(2, 1)
			_, err := v.open(mem)
			must(t, err)
			must(t, v.pages(mem, images.Present, 0, small))
			if has, err := v.open(space); has || err != nil {
				t.Fatal("a parent", has, err)
			}
			must(t, v.pages(space, images.Present, base, small))
			must(t, v.pages(space, images.Present|images.Lazy, base+pagestream.PageSize, big))
			must(t, v.entry(space, images.Lazy, at(5000, 3)))
			status, err := v.close()
			must(t, err)
			r, err := v.end()
			must(t, err)
			space.Container, mem.Container = 3, 3
			if status != 0 || r.Layout != l || r.Present != 2002 || r.Sent != 2002 || r.Lazy != 3 || r.Messages != 7 {
				t.Errorf("status %d, %+v", status, r.Stats)
			}
			if !bytes.Equal(s.content(space, at(0, 2001)), append(bytes.Clone(small), big...)) {
				t.Error("process memory differs")
			}
			if !bytes.Equal(s.content(mem, pagestream.Range{Pages: 1}), small) {
				t.Error("shared memory differs")
			}
			want := []images.Entry{
				{Vaddr: base, Pages: 1, Flags: images.Present},
				{Vaddr: base + pagestream.PageSize, Pages: 2000, Flags: images.Present | images.Lazy},
				{Vaddr: at(5000, 3).Start, Pages: 3, Flags: images.Lazy},
			}
			if !reflect.DeepEqual(r.Map[space], want) {
				t.Errorf("page map %v", r.Map[space])
			}
		})
	}
}

func TestThousandsOfSmallEntriesReachTheStreams(t *testing.T) {
	for _, l := range layouts {
		s := newSink()
		v := serve(t, l, Config{Out: s.streams(2)})
		_, err := v.open(process(1))
		must(t, err)
		data := random(3, 5000)
		// One write, so that what is read ahead ends anywhere.
		var b []byte
		for i := range uint64(5000) {
			m := message{cmd: cmdAddFlags, flags: images.Present, pages: 1, vaddr: at(2*i, 1).Start, dst: dstOf(process(1))}
			b = l.append(b, m)
			b = append(b, data[i*pagestream.PageSize:][:pagestream.PageSize]...)
		}
		_, err = v.Write(b)
		must(t, err)
		_, err = v.close()
		must(t, err)
		_, err = v.end()
		must(t, err)
		for i := range uint64(5000) {
			if !bytes.Equal(s.content(process(1), at(2*i, 1)), data[i*pagestream.PageSize:][:pagestream.PageSize]) {
				t.Fatalf("layout %s: page %d differs", l, i)
			}
		}
	}
}

func TestOnlyTheLastCommittedRoundIsAParent(t *testing.T) {
	x, s := newIndex(t), newSink()
	asks := func() bool {
		v := serve(t, Layout32, Config{Out: s.streams(1), Index: x})
		has, err := v.parent(process(1))
		must(t, err)
		opened, err := v.open(process(1))
		must(t, err)
		if opened != has {
			t.Error("PARENT and OPEN2 differ")
		}
		_, err = v.close()
		must(t, err)
		_, err = v.end()
		must(t, err)
		return has
	}
	if asks() {
		t.Error("a parent before any round")
	}
	dump(t, x, s, Layout32, random(1, 10))
	if !asks() {
		t.Error("no parent after a committed round")
	}
	if asks() {
		t.Error("a parent after a round that was not committed")
	}
	dump(t, x, s, Layout32, random(1, 10))
	x.Fail()
	if asks() {
		t.Error("a parent after a failed round")
	}
}

func TestHolesAreCheckedAgainstTheIndex(t *testing.T) {
	for _, l := range layouts {
		x, s := newIndex(t), newSink()
		dump(t, x, s, l, random(1, 10))
		v := serve(t, l, Config{Out: s.streams(1), Index: x})
		_, err := v.open(process(1))
		must(t, err)
		must(t, v.entry(process(1), images.Parent, at(0, 3)))
		must(t, v.pages(process(1), images.Present, at(3, 1).Start, random(2, 1)))
		must(t, v.entry(process(1), images.Parent, at(5, 5)))
		status, err := v.close()
		must(t, err)
		r, err := v.end()
		must(t, err)
		if status != 0 || r.Parent != 8 || r.Sent != 1 {
			t.Errorf("status %d, %+v", status, r.Stats)
		}
		gone, err := x.Commit(r)
		must(t, err)
		if want := []pagestream.Range{at(4, 1)}; !reflect.DeepEqual(gone[process(1)], want) {
			t.Errorf("gone %v, want %v", gone, want)
		}
		if want := []pagestream.Range{at(0, 4), at(5, 5)}; !reflect.DeepEqual(x.Held(process(1)), want) {
			t.Errorf("held %v, want %v", x.Held(process(1)), want)
		}

		// Page 4 was not in that round, though it was in the one before.
		v = serve(t, l, Config{Out: s.streams(1), Index: x})
		_, err = v.open(process(1))
		must(t, err)
		must(t, v.entry(process(1), images.Parent, at(0, 12)))
		status, err = v.close()
		must(t, err)
		if _, err = v.end(); status == 0 || !errors.Is(err, ErrHole) {
			t.Errorf("status %d, %v", status, err)
		}
	}
}

func TestMissingPagesAreRepaired(t *testing.T) {
	x, s := newIndex(t), newSink()
	dump(t, x, s, Layout32, random(1, 4))
	var repaired []pagestream.Range
	v := serve(t, Layout32, Config{Out: s.streams(1), Index: x, Repair: func(_ context.Context, space pagestream.Space, r []pagestream.Range) error {
		repaired = append(repaired, r...)
		return s.Runs(space, r, random(9, 8))
	}})
	_, err := v.open(process(1))
	must(t, err)
	must(t, v.entry(process(1), images.Parent, at(0, 8)))
	must(t, v.entry(process(1), images.Parent, at(10, 4)))
	status, err := v.close()
	must(t, err)
	r, err := v.end()
	must(t, err)
	if want := []pagestream.Range{at(4, 4), at(10, 4)}; status != 0 || !reflect.DeepEqual(repaired, want) || r.Repaired != 8 {
		t.Errorf("status %d, repaired %v, want %v, %+v", status, repaired, want, r.Stats)
	}
	_, err = x.Commit(r)
	must(t, err)
	if want := []pagestream.Range{at(0, 8), at(10, 4)}; !reflect.DeepEqual(x.Held(process(1)), want) {
		t.Errorf("held %v", x.Held(process(1)))
	}
}

func TestUnchangedSharedMemoryIsSentOnce(t *testing.T) {
	x, s := newIndex(t), newSink()
	data := random(1, 300)
	round := func(fail bool) Stats {
		v := serve(t, Layout24, Config{Out: s.streams(2), Index: x})
		_, err := v.open(shared(5))
		must(t, err)
		must(t, v.pages(shared(5), images.Present, 0, data))
		_, err = v.close()
		must(t, err)
		r, err := v.end()
		must(t, err)
		if fail {
			x.Fail()
		} else {
			_, err = x.Commit(r)
			must(t, err)
		}
		return r.Stats
	}
	if got := round(false); got.Sent != 300 || got.Unchanged != 0 {
		t.Errorf("first: %+v", got)
	}
	data[200*pagestream.PageSize]++
	if got := round(false); got.Sent != 1 || got.Unchanged != 299 {
		t.Errorf("one page changed: %+v", got)
	}
	if !bytes.Equal(s.content(shared(5), pagestream.Range{Pages: 300}), data) {
		t.Error("content differs")
	}
	round(true)
	if got := round(false); got.Sent != 300 {
		t.Errorf("after a failed round: %+v", got)
	}
	// A page that vanished is dropped at the destination, so it is sent again
	// when it comes back as it was.
	whole := data
	data = data[:100*pagestream.PageSize]
	round(false)
	data = whole
	if got := round(false); got.Sent != 200 || got.Unchanged != 100 {
		t.Errorf("pages came back: %+v", got)
	}
}

func TestAnEmptyConversationEndsWell(t *testing.T) {
	for _, l := range layouts {
		for _, cmd := range []command{cmdClose, cmdForceClose} {
			v := serve(t, l, Config{Out: newSink().streams(1), Index: newIndex(t)})
			b, err := v.ask(message{cmd: cmd}, 4)
			must(t, err)
			r, err := v.end()
			must(t, err)
			if !bytes.Equal(b, make([]byte, 4)) || r.Layout != LayoutUnknown || len(r.Map) != 0 {
				t.Errorf("%v, %+v", b, r)
			}
		}
	}
}

func TestPagesAreServedToALazyPagesDaemon(t *testing.T) {
	memory := random(1, 300)
	for _, l := range layouts {
		v := serve(t, l, Config{Container: 2, Out: newSink().streams(1), Read: func(_ context.Context, space pagestream.Space, r pagestream.Range, buf []byte) (uint64, error) {
			if space.Container != 2 || space.ID != 17 {
				t.Error(space)
			}
			return uint64(copy(buf, memory[r.Start-base:])) / pagestream.PageSize, nil
		}})
		want := pagestream.Range{Start: base, Pages: 300}
		for want.Pages > 0 {
			b, err := v.ask(message{cmd: cmdGet, pages: want.Pages, vaddr: want.Start, dst: 17}, l.size())
			must(t, err)
			m := l.decode(b)
			if m.cmd != cmdAddFlags || m.flags != images.Present || m.vaddr != want.Start || m.dst != 17 || m.pages == 0 || m.pages > want.Pages {
				t.Fatalf("%s: %s", l, m)
			}
			got := make([]byte, m.span().Bytes())
			_, err = io.ReadFull(v, got)
			must(t, err)
			if !bytes.Equal(got, memory[want.Start-base:][:len(got)]) {
				t.Fatal("content differs")
			}
			want.Start += m.span().Bytes()
			want.Pages -= m.pages
		}
		_, err := v.close()
		must(t, err)
		if r, err := v.end(); err != nil || r.Served != 300 || r.Layout != l {
			t.Errorf("%+v, %v", r, err)
		}
	}
}
