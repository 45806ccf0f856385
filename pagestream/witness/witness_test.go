package witness

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
)

const page = pagestream.PageSize

// filled is pages of which each has a content of its own.
func filled(first byte, pages int) []byte {
	var b []byte
	for i := range pages {
		b = append(b, bytes.Repeat([]byte{first + byte(i)}, page)...)
	}
	return b
}

var (
	process = pagestream.Space{Kind: pagestream.Process, ID: 7}
	shared  = pagestream.Space{Kind: pagestream.Shared, ID: 3}
)

// recorded is what CRIU has dumped: of a process pages 1, 2, 3 in its images, 16 to 18 that only the store has, of which
// the last is zero; of shared memory 0, 1 and a page of zeros, 2.
func recorded(t *testing.T) *Recorder {
	t.Helper()
	r := NewRecorder()
	record := func(space pagestream.Space, at uint64, data []byte) {
		t.Helper()
		if err := r.Runs(space, []pagestream.Range{{Start: at * page, Pages: uint64(len(data) / page)}}, data); err != nil {
			t.Fatal(err)
		}
	}
	record(process, 16, append(filled(16, 2), make([]byte, page)...))
	record(process, 1, filled(1, 3)) // in no order
	record(shared, 0, append(filled(100, 2), make([]byte, page)...))
	return r
}

func dumped(t *testing.T) *Dump {
	t.Helper()
	d, err := recorded(t).Dump()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// destination is a store and images of the same memory.
type destination struct {
	private, shared []images.Entry
	pages           map[images.PagesID][]byte
	stored          map[uint64][]byte // by the page's number; nil for zeros
}

func asDumped() *destination {
	return &destination{
		private: []images.Entry{
			{Vaddr: page, Pages: 3, Flags: images.Present},
			{Vaddr: 16 * page, Pages: 3, Flags: images.Lazy},
		},
		// As the store arranges it: in an order of its own, with a page of zeros that is not in CRIU's dump, and without one that is.
		shared: []images.Entry{
			{Vaddr: page, Pages: 1, Flags: images.Present},
			{Vaddr: 0, Pages: 1, Flags: images.Present},
			{Vaddr: 5 * page, Pages: 1, Flags: images.Present},
		},
		pages: map[images.PagesID][]byte{
			1: filled(1, 3),
			2: slices.Concat(filled(101, 1), filled(100, 1), make([]byte, page)),
		},
		stored: map[uint64][]byte{16: filled(16, 1), 17: filled(17, 1), 18: nil},
	}
}

// compare makes store and images and compares.
func (x *destination) compare(t *testing.T, d *Dump) (uint64, error) {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "store"), store.Options{Limit: 64 << 20})
	if err != nil {
		t.Skip(err) // it takes a mount
	}
	defer s.Remove()
	for n, data := range x.stored {
		if data == nil {
			err = s.Zero(process, n*page, 1)
		} else {
			err = s.Pages(process, n*page, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := s.ImagesDir(0)
	write := func(path string, f func(io.Writer) error) {
		t.Helper()
		var b bytes.Buffer
		if err := errors.Join(f(&b), os.WriteFile(path, b.Bytes(), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(images.PagemapPath(dir, process.ID), func(w io.Writer) error { return images.WritePagemap(w, 1, x.private) })
	write(images.SharedPagemapPath(dir, shared.ID), func(w io.Writer) error { return images.WriteArranged(w, 2, x.shared) })
	for id, b := range x.pages {
		write(images.PagesPath(dir, id), func(w io.Writer) error { _, err := w.Write(b); return err })
	}
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	r, err := store.OpenContainer(s.Dir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	return d.Compare(dir, r, 0)
}

func TestMemoryThatIsAsCRIUHasDumpedItIsEqual(t *testing.T) {
	pages, err := asDumped().compare(t, dumped(t))
	if err != nil {
		t.Fatal(err)
	}
	if want := uint64(6 + 4); pages != want {
		t.Errorf("%d pages were compared, want %d", pages, want)
	}
}

func TestOnePageOfDifferenceIsAnErrorThatNamesIt(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*destination)
		want   string
	}{
		"a byte in the images":     {func(x *destination) { x.pages[1][2*page+9]++ }, "process 7 at 0x3000: another content"},
		"a byte in the store":      {func(x *destination) { x.stored[17][page-1]++ }, "process 7 at 0x11000: another content"},
		"a page of zeros that is":  {func(x *destination) { x.stored[18] = filled(1, 1) }, "process 7 at 0x12000: another content"},
		"a page that is not":       {func(x *destination) { x.private[1].Pages-- }, "process 7 at 0x12000: it would not be restored"},
		"a page that CRIU has not": {func(x *destination) { x.private[1].Pages++; x.stored[19] = nil }, "process 7 at 0x13000: CRIU has not dumped it"},
		"a process that is not":    {func(x *destination) { x.private = nil }, "process 7 at 0x1000: it would not be restored"},
		"a byte of shared memory":  {func(x *destination) { x.pages[2][5]++ }, "shared 3 at 0x1000: another content"},
		"shared memory that is not": {func(x *destination) { x.shared = x.shared[:1] },
			"shared 3 at 0x0: it would not be restored"},
		"shared memory that CRIU has not": {func(x *destination) { x.pages[2][2*page] = 1 }, "shared 3 at 0x5000: CRIU has not dumped it"},
	} {
		t.Run(name, func(t *testing.T) {
			x := asDumped()
			c.change(x)
			_, err := x.compare(t, dumped(t))
			if !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestAPageThatIsListedAndNowhereIsAnError(t *testing.T) {
	x := asDumped()
	x.private[1].Pages++
	if _, err := x.compare(t, dumped(t)); !errors.Is(err, errAbsent) {
		t.Errorf("got %v, want %v", err, errAbsent)
	}
}

// What the kernel writes by itself does not count, and all around it does.
func TestExemptPartsOfPagesDoNotCount(t *testing.T) {
	d := dumped(t)
	now := filled(16, 1)
	now[40]++ // the kernel has written since CRIU has dumped
	parts := []images.Sequence{{Addr: 16*page + 32, Size: 32}, {Addr: 30 * page, Size: 32}}
	err := d.Exempt(process.ID, parts, func(at uint64, content []byte) error {
		if at != 16*page {
			t.Errorf("page %#x is read", at)
		}
		copy(content, now)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	x := asDumped()
	x.stored[16][63] += 5
	if _, err := x.compare(t, d); err != nil {
		t.Error(err)
	}
	x.stored[16][64]++
	if _, err := x.compare(t, d); !errors.Is(err, ErrDiffers) {
		t.Errorf("a byte behind the exempt part: got %v, want %v", err, ErrDiffers)
	}
}

// A page that came as it was for a moment only is read again.
func TestAPageThatIsReadAgainCountsAsItIsNow(t *testing.T) {
	d := dumped(t)
	x := asDumped()
	x.stored[17][0]++
	if _, err := x.compare(t, d); !errors.Is(err, ErrDiffers) {
		t.Fatalf("got %v, want %v", err, ErrDiffers)
	}
	for _, at := range []uint64{17, 40} { // CRIU has dumped no page 40
		err := d.Reread(process.ID, at*page, func(at uint64, content []byte) error {
			if at != 17*page {
				t.Errorf("page %#x is read", at)
			}
			copy(content, x.stored[17])
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.compare(t, d); err != nil {
		t.Error(err)
	}
}

func TestAPageThatCameTwiceIsAnError(t *testing.T) {
	r := recorded(t)
	if err := r.Runs(process, []pagestream.Range{{Start: 17 * page, Pages: 1}}, filled(1, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Dump(); !errors.Is(err, pagestream.ErrInvalid) {
		t.Errorf("got %v, want %v", err, pagestream.ErrInvalid)
	}
}

func TestADumpIsReadAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	d := dumped(t)
	if err := d.Exempt(process.ID, []images.Sequence{{Addr: page, Size: 32}}, func(uint64, []byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := d.Save(dir); err != nil {
		t.Fatal(err)
	}
	read, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if read.Pages() != d.Pages() || read.Pages() != 9 {
		t.Errorf("%d pages were read, %d written, want 9", read.Pages(), d.Pages())
	}
	for _, name := range d.names() {
		a, b := d.spaces[name], read.spaces[name]
		if b == nil || !slices.Equal(a.runs, b.runs) || !slices.Equal(a.hashes, b.hashes) || !slices.Equal(a.exempt, b.exempt) {
			t.Errorf("%v: read %+v, written %+v", name, b, a)
		}
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a directory without one: got %v, want %v", err, os.ErrNotExist)
	}
}

func FuzzDecode(f *testing.F) {
	r := NewRecorder()
	_ = r.Runs(process, []pagestream.Range{{Start: page, Pages: 2}}, filled(1, 2))
	d, err := r.Dump()
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	if err := d.Save(dir); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[headSize:], uint32(1))
	f.Add([]byte{}, uint32(0))
	f.Add(raw[headSize:len(raw)-1], uint32(2))
	f.Fuzz(func(t *testing.T, body []byte, spaces uint32) {
		d, err := decode(sealed(body, spaces))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%v does not wrap %v", err, ErrFormat)
			}
			return
		}
		if d.Pages()*hashSize > uint64(len(body)) {
			t.Errorf("%d pages from %d bytes", d.Pages(), len(body))
		}
		for _, sp := range d.spaces {
			for w := (walk{sp: sp}); w.more(); w.next() {
				_ = w.hash()
			}
		}
	})
}

// sealed puts a head before what follows it in a file.
func sealed(body []byte, spaces uint32) []byte {
	head := binary.LittleEndian.AppendUint32([]byte(magic), spaces)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(body, castagnoli))
	return append(head, body...)
}
