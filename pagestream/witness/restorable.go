package witness

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
)

// restorable is the pages of one address space as a restore finds them: in the pages file of the images, if the pagemap
// says so, else in the store.
type restorable struct {
	name    Name
	entries []placed // ascending
	file    []byte   // the pages file, mapped; nil if there is none
	stored  *store.SealedSpace
}

// placed is an entry of a pagemap, and where its content is in the pages file if it is present.
type placed struct {
	images.Entry
	offset uint64
}

// openRestorable reads the pagemap that was found in a directory of images.
func openRestorable(dir string, l images.Listed, stored *store.Reader, container uint16) (*restorable, error) {
	x := &restorable{name: Name{pagestream.Process, l.ID}}
	read := images.ReadPagemapFile
	if l.Shared {
		x.name.Kind, read = pagestream.Shared, images.ReadArrangedFile
	}
	id, entries, err := read(l.Path)
	if err != nil {
		return nil, err
	}
	var size uint64
	for _, e := range entries {
		x.entries = append(x.entries, placed{e, size})
		if e.Present() {
			size += e.Range().Bytes()
		}
	}
	slices.SortFunc(x.entries, func(a, b placed) int { return cmp.Compare(a.Vaddr, b.Vaddr) })
	for i := 1; i < len(x.entries); i++ {
		if x.entries[i].Vaddr < x.entries[i-1].End() {
			return nil, fmt.Errorf("pagemap %s lists the page at %#x twice: %w", l.Path, x.entries[i].Vaddr, images.ErrFormat)
		}
	}
	x.stored = stored.Space(x.name.of(container))
	if size == 0 {
		return x, nil
	}
	return x, x.mapPages(images.PagesPath(dir, id), size)
}

// mapPages maps the pages file, which has to have a size at least.
func (x *restorable) mapPages(path string, size uint64) error {
	f, err := images.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if uint64(st.Size()) < size {
		return fmt.Errorf("pages file %s has %d bytes, its pagemap needs %d: %w", path, st.Size(), size, images.ErrFormat)
	}
	if x.file, err = unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return &os.PathError{Op: "map", Path: path, Err: err}
	}
	return nil
}

func (x *restorable) close() error {
	if x.file == nil {
		return nil
	}
	return unix.Munmap(x.file)
}

// errAbsent is for a page that the images list and nobody has.
var errAbsent = errors.New("it is listed, but neither in the images nor in the store")

// content is that of a page of an entry; nil is one of zeros.
func (x *restorable) content(e placed, page uint64) ([]byte, error) {
	if e.Present() {
		at := e.offset + page - e.Vaddr
		return x.file[at : at+pagestream.PageSize], nil
	}
	found, ok := x.stored.Find(page)
	if !ok {
		return nil, errAbsent
	}
	if found.Data == nil {
		return nil, nil
	}
	at := page - found.Vaddr
	return found.Data[at : at+pagestream.PageSize], nil
}
