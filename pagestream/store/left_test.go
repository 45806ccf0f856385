package store

import (
	"bytes"
	"errors"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestPagesLeftAtTheSourceLandInTheirPlaces(t *testing.T) {
	s := newStore(t, 16<<20)
	name := pagestream.Space{Kind: pagestream.Process, ID: 5}
	old, fresh := bytes.Repeat([]byte{1}, pagestream.PageSize), bytes.Repeat([]byte{2}, pagestream.PageSize)
	if err := s.Pages(name, 0x10000, bytes.Repeat(old, 3)); err != nil {
		t.Fatal(err)
	}
	left := []pagestream.Range{{Start: 0x11000, Pages: 1}, {Start: 0x20000, Pages: 2}}
	if err := s.Leave(name, left); err != nil {
		t.Fatal(err)
	}
	if err := s.Leave(name, []pagestream.Range{left[1], left[0]}); !errors.Is(err, pagestream.ErrInvalid) {
		t.Errorf("ranges out of order: %v", err)
	}
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what has landed is known to the next
		r, err := OpenSealed(s.Dir())
		if err != nil {
			t.Fatal(err)
		}
		l, err := r.OpenLanding(r.Space(name))
		if err != nil {
			t.Fatal(err)
		}
		for at, page := range map[uint64][]byte{0x11000: nil, 0x21000: fresh} {
			if err := l.Put(at, page); err != nil || !l.Landed(at) {
				t.Errorf("page %#x: %v", at, err)
			}
			if page == nil {
				page = make([]byte, pagestream.PageSize)
			}
			if got, ok := r.Lookup(name, at); !ok || !bytes.Equal(got, page) {
				t.Errorf("page %#x is %x", at, got[:4])
			}
			if err := l.Put(at, old); err != nil { // it came twice
				t.Error(err)
			}
			if got, _ := r.Lookup(name, at); !bytes.Equal(got, page) {
				t.Errorf("page %#x is written over", at)
			}
		}
		if l.Landed(0x20000) || l.Landed(0x10000) {
			t.Error("a page has landed that nobody put there")
		}
		if err := l.Put(0x10000, fresh); !errors.Is(err, pagestream.ErrInvalid) {
			t.Errorf("a page that was not left: %v", err)
		}
		if err := errors.Join(l.Close(), r.Close()); err != nil {
			t.Error(err)
		}
	}
}

func FuzzLeft(f *testing.F) {
	f.Add(encodeRanges(leftMagic, []pagestream.Range{{Start: 0x1000, Pages: 2}, {Start: 0x5000, Pages: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ranges, err := decodeLeft(b)
		if err == nil && !bytes.Equal(encodeRanges(leftMagic, ranges), b) {
			t.Errorf("%v is written otherwise", ranges)
		}
	})
}
