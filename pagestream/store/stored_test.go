package store

import (
	"bytes"
	"errors"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestStoredIsWhatCameLast(t *testing.T) {
	s := newStore(t, 64<<20)
	want := content(1, 8)
	must(t, s.Pages(proc(1), 0x10000, want))
	must(t, s.Pages(proc(2), 0x12000, content(3, 2)))
	must(t, s.Zero(proc(1), 0x12000, 3))
	clear(want[2*pageSize : 5*pageSize])
	must(t, s.Pages(proc(1), 0x13000, content(2, 1)))
	copy(want[3*pageSize:], content(2, 1))
	got := content(4, 8)
	must(t, s.Stored(proc(1), 0x10000, got))
	if !bytes.Equal(got, want) {
		t.Error("something else is stored")
	}
	must(t, s.Stored(proc(1), 0x13000, got[:pageSize]))
	if !bytes.Equal(got[:pageSize], content(2, 1)) {
		t.Error("the page is another one")
	}
}

func TestWhatIsNotStoredIsAnError(t *testing.T) {
	s := newStore(t, 64<<20)
	must(t, s.Pages(proc(1), 0x10000, content(1, 2)))
	for name, c := range map[string]struct {
		space pagestream.Space
		vaddr uint64
		bytes int
		want  error
	}{
		"behind the last page": {proc(1), 0x11000, 2 * pageSize, ErrMissing},
		"another chunk":        {proc(1), 1 << 40, pageSize, ErrMissing},
		"another space":        {proc(2), 0x10000, pageSize, ErrMissing},
		"half a page":          {proc(1), 0x10000, pageSize / 2, pagestream.ErrInvalid},
		"nothing":              {proc(1), 0x10000, 0, pagestream.ErrInvalid},
		"no page boundary":     {proc(1), 0x10001, pageSize, pagestream.ErrInvalid},
	} {
		if err := s.Stored(c.space, c.vaddr, make([]byte, c.bytes)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	must(t, s.Seal())
	if err := s.Stored(proc(1), 0x10000, make([]byte, pageSize)); !errors.Is(err, ErrState) {
		t.Errorf("sealed: %v, want ErrState", err)
	}
}
