package images

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestContentsAreReadAsTheyWereWritten(t *testing.T) {
	want := Contents{Sum: ContentsSum(ContentsSum(0, []byte("ab")), []byte("c")), Numbers: []uint32{3, 3, 0, 1 << 20}}
	if want.Sum != ContentsSum(0, []byte("abc")) {
		t.Error("the sum depends on how the bytes come")
	}
	path := ContentsPath(t.TempDir(), 7)
	if err := os.WriteFile(path, want.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadContentsFile(path)
	if err != nil || got.Sum != want.Sum || !slices.Equal(got.Numbers, want.Numbers) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestContentsThatAreCutOrTooLongAreRefused(t *testing.T) {
	good := Contents{Numbers: []uint32{1, 2}}.Encode()
	for name, b := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-1], "more": append(slices.Clone(good), 0),
		"another file":   append([]byte("GODWITIX"), good[8:]...),
		"too many pages": append(append(slices.Clone(good[:8]), 0xff, 0xff, 0xff, 0xff), good[12:]...),
	} {
		if _, err := DecodeContents(b); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyNamesOfPagesFilesAreListed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"pages-10.img", "pages-2.img", "pages-02.img", "pages-0.img", "pages-x.img", "pages-3.contents", "pages-4294967296.img", "pagemap-1.img"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := ListPages(dir); err != nil || !slices.Equal(ids, []PagesID{2, 10}) {
		t.Errorf("%v, %v", ids, err)
	}
	if ids, err := ListContents(dir); err != nil || !slices.Equal(ids, []PagesID{3}) {
		t.Errorf("%v, %v", ids, err)
	}
}

// CRIU reads shared memory entry by entry, so its pagemap may have any order; nobody else takes one.
func TestAnArrangedPagemapKeepsItsOrder(t *testing.T) {
	var b bytes.Buffer
	entries := []Entry{{0x5000, 2, Present}, {0x1000, 1, Present}}
	if err := WriteArranged(&b, 9, entries); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pagemap-shmem-1.img")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if id, err := ReadPagesID(path); id != 9 || err != nil {
		t.Errorf("id %d, %v", id, err)
	}
	if _, _, err := ReadPagemapFile(path); !errors.Is(err, ErrFormat) {
		t.Errorf("read as any other: %v", err)
	}
	if err := WritePagemap(&b, 9, entries); !errors.Is(err, ErrFormat) {
		t.Errorf("written as any other: %v", err)
	}
}

func FuzzDecodeContents(f *testing.F) {
	f.Add(Contents{Sum: 1, Numbers: []uint32{1, 2}}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeContents(b)
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatalf("error without ErrFormat: %v", err)
		}
		if err == nil && !bytes.Equal(c.Encode(), b) {
			t.Fatalf("%+v is encoded otherwise", c)
		}
	})
}
