package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// writePagemap makes a pagemap, and its pages file if there are pages.
func writePagemap(t testing.TB, path string, id images.PagesID, pages []byte, entries ...images.Entry) {
	t.Helper()
	var b bytes.Buffer
	must(t, images.WritePagemap(&b, id, entries))
	must(t, os.WriteFile(path, b.Bytes(), 0o600))
	if pages != nil {
		must(t, os.WriteFile(images.PagesPath(filepath.Dir(path), id), pages, 0o600))
	}
}

func TestCompleteSaysWhatARestoreWouldLack(t *testing.T) {
	s := newStore(t, 16<<20)
	dir := s.ImagesDir(0)
	writePagemap(t, images.PagemapPath(dir, 1), 1, nil,
		images.Entry{Vaddr: 0x10000, Pages: 8, Flags: images.Lazy},
		images.Entry{Vaddr: 0x100000, Pages: 8, Flags: images.Present},
		images.Entry{Vaddr: 0x200000, Pages: 4000, Flags: images.Lazy},
		images.Entry{Vaddr: 1 << 50, Pages: 1<<32 - 1, Flags: images.Parent})
	writePagemap(t, images.PagemapPath(dir, 9), 2, nil, images.Entry{Vaddr: 0x1000, Pages: 1, Flags: images.Lazy | images.Present})
	must(t, s.Pages(proc(1), 0x10000, content(1, 8)))
	must(t, s.Zero(proc(1), 0x200000, 4000))
	must(t, s.Pages(proc(1), 1<<50, content(1, 1)))
	missing, err := s.Complete(0)
	must(t, err)
	rest := Missing{proc(1), pagestream.Range{Start: 1<<50 + pageSize, Pages: 1<<32 - 2}}
	if !slices.Equal(missing, []Missing{rest}) {
		t.Fatalf("missing %v, want %v", missing, rest)
	}
	writePagemap(t, images.PagemapPath(dir, 2), 3, nil, images.Entry{Vaddr: 0x5000, Pages: 3, Flags: images.Lazy})
	if missing, err = s.Complete(0); err != nil || len(missing) != 2 || missing[1].Space != proc(2) {
		t.Fatalf("missing %v, %v: a process that was never sent", missing, err)
	}
	must(t, os.WriteFile(images.PagemapPath(dir, 3), []byte("no image"), 0o600))
	if _, err = s.Complete(0); !errors.Is(err, images.ErrFormat) {
		t.Fatalf("a bad image: %v", err)
	}
}

func TestFlattenLeavesOneLayerWithAllPages(t *testing.T) {
	for _, consume := range []bool{false, true} {
		t.Run(fmt.Sprint("consume ", consume), func(t *testing.T) {
			s := newStore(t, 64<<20)
			dir := s.ImagesDir(0)
			own, stored := content(1, 5), content(2, 3000)
			must(t, os.Symlink("../before", filepath.Join(dir, "parent")))
			writePagemap(t, images.PagemapPath(dir, 1), 1, own,
				images.Entry{Vaddr: 0x1000, Pages: 2, Flags: images.Present},
				images.Entry{Vaddr: 0x10000, Pages: 1000, Flags: images.Lazy},
				images.Entry{Vaddr: 0x500000, Pages: 1, Flags: images.Present | images.Lazy},
				images.Entry{Vaddr: 0x501000, Pages: 2000, Flags: images.Parent},
				images.Entry{Vaddr: 0x40000000, Pages: 2, Flags: images.Present},
				images.Entry{Vaddr: 0x50000000, Pages: 700, Flags: images.Lazy})
			must(t, s.Pages(proc(1), 0x501000, stored[1000*pageSize:]))
			must(t, s.Pages(proc(1), 0x10000, stored[:1000*pageSize]))
			must(t, s.Zero(proc(1), 0x50000000, 700))
			must(t, s.Flatten(0, consume))
			id, entries, err := images.ReadPagemapFile(images.PagemapPath(dir, 1))
			must(t, err)
			for _, e := range entries {
				if e.Flags != images.Present {
					t.Fatalf("entry %+v is not flat", e)
				}
			}
			want := slices.Concat(own[:2*pageSize], stored[:1000*pageSize], own[2*pageSize:3*pageSize],
				stored[1000*pageSize:], own[3*pageSize:], make([]byte, 700*pageSize))
			got, err := os.ReadFile(images.PagesPath(dir, id))
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Fatal("pages differ")
			}
			if _, err := os.Lstat(filepath.Join(dir, "parent")); err == nil {
				t.Fatal("the link to the parent is still there")
			}
			must(t, s.Flatten(0, consume))
		})
	}
}

func TestFlattenOfIncompleteImagesFails(t *testing.T) {
	s := newStore(t, 16<<20)
	dir := s.ImagesDir(0)
	writePagemap(t, images.PagemapPath(dir, 1), 1, content(1, 2), images.Entry{Vaddr: 0x1000, Pages: 3, Flags: images.Present},
		images.Entry{Vaddr: 0x10000, Pages: 1, Flags: images.Parent})
	must(t, s.Pages(proc(1), 0x10000, content(1, 1)))
	if err := s.Flatten(0, false); !errors.Is(err, images.ErrFormat) {
		t.Fatalf("a pages file that is too short: %v", err)
	}
	writePagemap(t, images.PagemapPath(dir, 1), 1, content(1, 3), images.Entry{Vaddr: 0x1000, Pages: 3, Flags: images.Present},
		images.Entry{Vaddr: 0x20000, Pages: 1, Flags: images.Lazy})
	if err := s.Flatten(0, false); !errors.Is(err, ErrMissing) {
		t.Fatalf("a page that was not sent: %v", err)
	}
}
