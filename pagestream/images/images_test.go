package images

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream"
	"google.golang.org/protobuf/encoding/protowire"
)

// image builds an image by hand, so that the reader is not tested by the writer.
func image(magic uint32, records ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, magicCommon)
	b = binary.LittleEndian.AppendUint32(b, magic)
	for _, r := range records {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(r)))
		b = append(b, r...)
	}
	return b
}

// message encodes pairs of field number and varint.
func message(pairs ...uint64) []byte {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = protowire.AppendTag(b, protowire.Number(pairs[i]), protowire.VarintType)
		b = protowire.AppendVarint(b, pairs[i+1])
	}
	return b
}

func TestReadPagemapTakesEveryVersionOfAnEntry(t *testing.T) {
	head := message(1, 7)
	img := image(magicPagemap, head,
		message(1, 0x1000, 2, 3),                     // before flags: present
		message(1, 0x8000, 2, 1, 3, 1),               // before flags: in the parent
		message(1, 0x10000, 2, 4, 4, 2),              // lazy, count in field 2
		message(1, 0x20000, 2, 0, 4, 6, 5, 5),        // CRIU 4.2
		message(1, 0x30000, 2, 9, 4, 4, 5, 1),        // both: field 5 counts
		message(1, 0x40000, 2, 1, 4, 4, 9, 1234),     // a field of the future
		message(1, 0x7fffffffe000, 2, 1, 3, 1, 4, 1), // both ways to say parent
		message(1, 1<<56, 2, 0, 4, 2, 5, 1<<32-1),    // five-level paging
	)
	want := []Entry{
		{0x1000, 3, Present}, {0x8000, 1, Parent}, {0x10000, 4, Lazy}, {0x20000, 5, Lazy | Present},
		{0x30000, 1, Present}, {0x40000, 1, Present}, {0x7fffffffe000, 1, Parent}, {1 << 56, 1<<32 - 1, Lazy},
	}
	id, got, err := ReadPagemap(bytes.NewReader(img))
	if err != nil || id != 7 || !slices.Equal(got, want) {
		t.Fatalf("id %d, entries %v, %v", id, got, err)
	}
	var out bytes.Buffer
	if err := WritePagemap(&out, id, got); err != nil {
		t.Fatal(err)
	}
	id, again, err := ReadPagemap(&out)
	if err != nil || id != 7 || !slices.Equal(again, want) {
		t.Fatalf("after writing: id %d, entries %v, %v", id, again, err)
	}
}

func TestWritePagemapSaysTheCountTwice(t *testing.T) {
	var out bytes.Buffer
	if err := WritePagemap(&out, 1, []Entry{{0x5000, 300, Present}}); err != nil {
		t.Fatal(err)
	}
	want := image(magicPagemap, message(1, 1), message(1, 0x5000, 2, 300, 4, 4, 5, 300))
	if !bytes.Equal(out.Bytes(), want) {
		t.Fatalf("got % x\nwant % x", out.Bytes(), want)
	}
}

func TestReadPagemapRejects(t *testing.T) {
	head := message(1, 7)
	for name, img := range map[string][]byte{
		"nothing":             nil,
		"half a magic":        image(magicPagemap)[:6],
		"another magic":       image(magicMM, head),
		"no head":             image(magicPagemap),
		"pages id 0":          image(magicPagemap, message(1, 0)),
		"pages id over 32":    image(magicPagemap, message(1, 1<<32)),
		"cut record":          image(magicPagemap, head, message(1, 0x1000, 2, 1))[:20],
		"cut length":          append(image(magicPagemap, head), 1, 0),
		"huge record":         append(image(magicPagemap, head), 0xff, 0xff, 0xff, 0xff),
		"no pages":            image(magicPagemap, head, message(1, 0x1000, 2, 0)),
		"off a page":          image(magicPagemap, head, message(1, 0x1001, 2, 1)),
		"wraps around":        image(magicPagemap, head, message(1, 0x1000, 2, 1, 5, 1<<52)),
		"too many pages":      image(magicPagemap, head, message(1, 0x1000, 2, 1, 5, 1<<32)),
		"over the top":        image(magicPagemap, head, message(1, pagestream.MaxAddress, 2, 1)),
		"overlap":             image(magicPagemap, head, message(1, 0x1000, 2, 2), message(1, 0x2000, 2, 1)),
		"descending":          image(magicPagemap, head, message(1, 0x4000, 2, 1), message(1, 0x1000, 2, 1)),
		"unknown flags":       image(magicPagemap, head, message(1, 0x1000, 2, 1, 4, 8)),
		"no protobuf":         image(magicPagemap, head, []byte{0xff}),
		"bytes for a varint?": image(magicPagemap, head, []byte{0x0a, 0x05}),
	} {
		if _, _, err := ReadPagemap(bytes.NewReader(img)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWritePagemapRejectsWhatItWouldNotRead(t *testing.T) {
	for name, e := range map[string][]Entry{
		"empty":      {{0x1000, 0, Present}},
		"descending": {{0x4000, 1, Present}, {0x1000, 1, Present}},
		"flags":      {{0x1000, 1, 8}},
	} {
		if err := WritePagemap(&bytes.Buffer{}, 1, e); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := WritePagemap(&bytes.Buffer{}, 0, nil); !errors.Is(err, ErrFormat) {
		t.Errorf("pages id 0: %v", err)
	}
}

func TestListPagemapsTakesOnlyPlainNamesAndFiles(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"pagemap-1.img", "pagemap-17.img", "pagemap-shmem-4211.img", "pages-1.img",
		"pagemap-01.img", "pagemap-0.img", "pagemap--1.img", "pagemap-1.img.new", "pagemap-shmem-x.img", "inventory.img"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ListPagemaps(dir)
	want := []Listed{
		{PagemapPath(dir, 1), false, 1}, {PagemapPath(dir, 17), false, 17}, {SharedPagemapPath(dir, 4211), true, 4211},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
	if err := os.Symlink("/etc/passwd", PagemapPath(dir, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := ListPagemaps(dir); !errors.Is(err, ErrFormat) {
		t.Fatalf("a link was taken: %v", err)
	}
	if _, _, err := ReadPagemapFile(PagemapPath(dir, 2)); err == nil {
		t.Fatal("a link was followed")
	}
}

func TestReadMMFindsAreas(t *testing.T) {
	vma := func(pairs ...uint64) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, 14, protowire.BytesType), message(pairs...))
	}
	msg := append(message(1, 5, 2, 6), vma(1, 0x1000, 2, 0x3000, 5, 3, 6, 0x22, 7, 0x201)...)
	msg = append(msg, vma(1, 0x5000, 2, 0x6000, 5, 3, 6, 0x22, 7, 0x201, 9, 1<<18)...)
	got, err := ReadMM(bytes.NewReader(image(magicMM, msg)))
	want := []VMA{{0x1000, 0x3000, 3, 0x22, 0x201, 0}, {0x5000, 0x6000, 3, 0x22, 0x201, 1 << 18}}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
	if got[0].WipedOnFork() || !got[1].WipedOnFork() {
		t.Fatal("wrong area is wiped on fork")
	}
	for name, b := range map[string][]byte{
		"empty area": vma(1, 0x1000, 2, 0x1000),
		"wide prot":  vma(1, 0x1000, 2, 0x2000, 5, 1<<32),
		"cut area":   {14<<3 | 2, 5, 1},
	} {
		if _, err := ReadMM(bytes.NewReader(image(magicMM, b))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadPagemap(f *testing.F) {
	f.Add(image(magicPagemap, message(1, 7), message(1, 0x1000, 2, 3), message(1, 0x8000, 2, 1, 3, 1, 4, 1, 5, 2)))
	f.Add(image(magicPagemap, message(1, 7), message(1, 0x1000, 5, 1<<51)))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, entries, err := ReadPagemap(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error without ErrFormat: %v", err)
			}
			return
		}
		end := uint64(0)
		for _, e := range entries {
			if e.Range().Valid() != nil || e.Vaddr < end {
				t.Fatalf("invalid entry %+v", e)
			}
			end = e.End()
		}
		var out bytes.Buffer
		if err := WritePagemap(&out, id, entries); err != nil {
			t.Fatal(err)
		}
		id2, again, err := ReadPagemap(&out)
		if err != nil || id2 != id || !slices.Equal(again, entries) {
			t.Fatalf("written and read again: %v, %v", again, err)
		}
	})
}

func FuzzReadMM(f *testing.F) {
	f.Add(image(magicMM, append(message(1, 5), protowire.AppendBytes([]byte{14<<3 | 2}, message(1, 0x1000, 2, 0x3000))...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		vmas, err := ReadMM(bytes.NewReader(b))
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatalf("error without ErrFormat: %v", err)
		}
		for _, v := range vmas {
			if v.Start >= v.End {
				t.Fatalf("invalid area %+v", v)
			}
		}
	})
}

func FuzzPagemapName(f *testing.F) {
	f.Add("pagemap-1.img")
	f.Add("pagemap-shmem-01.img")
	f.Add("pagemap-shmem-0.img")
	f.Fuzz(func(t *testing.T, name string) {
		l, ok := parsePagemapName(name)
		if !ok {
			return
		}
		path := PagemapPath("d", l.ID)
		if l.Shared {
			path = SharedPagemapPath("d", l.ID)
		}
		if path != "d/"+name {
			t.Fatalf("%q was taken for %q", name, path)
		}
	})
}

func BenchmarkReadPagemap(b *testing.B) {
	var entries []Entry
	for i := range uint64(100_000) {
		entries = append(entries, Entry{0x7f0000000000 + i*10*4096, 5, Lazy})
	}
	var out bytes.Buffer
	if err := WritePagemap(&out, 1, entries); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, got, err := ReadPagemap(bytes.NewReader(out.Bytes())); err != nil || len(got) != len(entries) {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(entries)), "entries")
}
