package store

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

// Reader is a sealed store as another process reads it. It may be used
// concurrently.
type Reader struct {
	dir    string
	spaces map[pagestream.Space]*SealedSpace
}

// SealedSpace is one address space of a sealed store.
type SealedSpace struct {
	Name pagestream.Space

	runs []sealedRun
	data mapping
	left []pagestream.Range // see Left
	note bool               // there was one of what has been given back when it was opened

	giving atomic.Pointer[Giving] // nil as long as nothing can be given back
}

// Extent is a maximal run of pages that lie one behind the other.
type Extent struct {
	Vaddr uint64
	Pages uint64
	// Data is their content, in memory shared with the store; nil if all of
	// them are zero. It is valid until the Reader is closed.
	Data []byte
	// Slot is the place of the first of them in the data file, in pages, if Data is not nil.
	Slot uint64
}

// End is the address of the first byte after the extent.
func (e Extent) End() uint64 { return e.Vaddr + e.Pages*pagestream.PageSize }

// OpenSealed opens a store after Seal, read-only, whichever process sealed it.
// Its indexes are checked; an error about one of them wraps ErrIndex, that of a
// store that is not sealed wraps ErrState.
func OpenSealed(dir string) (*Reader, error) { return openSealed(dir, "") }

// OpenContainer is OpenSealed for the spaces of one container.
func OpenContainer(dir string, container uint16) (*Reader, error) {
	return openSealed(dir, strconv.Itoa(int(container))+"-")
}

// openSealed opens the spaces whose files' names begin so.
func openSealed(dir, prefix string) (*Reader, error) {
	want, err := readSeal(dir)
	if err != nil {
		return nil, fmt.Errorf("open sealed store: %w", err)
	}
	r := &Reader{dir: dir, spaces: make(map[pagestream.Space]*SealedSpace)}
	files, err := os.ReadDir(filepath.Join(dir, pagesDir))
	if err != nil {
		return nil, fmt.Errorf("open sealed store: %w", err)
	}
	there, indexes := make(map[string]bool, len(files)), 0
	for _, f := range files {
		there[f.Name()] = true
		if filepath.Ext(f.Name()) == indexSuffix {
			indexes++
		}
	}
	if indexes != want {
		return nil, fmt.Errorf("open sealed store %s: %d indexes, %d were sealed: %w", dir, indexes, want, ErrIndex)
	}
	for _, f := range files {
		name, index := strings.CutSuffix(f.Name(), indexSuffix)
		if !index || !strings.HasPrefix(name, prefix) {
			continue
		}
		sp, err := openSpace(dir, name, there)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open sealed store: %w", err), r.Close())
		}
		r.spaces[sp.Name] = sp
	}
	return r, nil
}

// readSeal returns the number of spaces that a sealed store has.
func readSeal(dir string) (int, error) {
	f, err := os.Open(sealPath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%s is not sealed: %w", dir, ErrState)
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n < 0 || n > MaxSpaces {
		return 0, fmt.Errorf("%s: %q is no number of spaces: %w", f.Name(), b, ErrIndex)
	}
	return n, nil
}

// openSpace opens the space whose files have this name; there says which files the store has.
func openSpace(dir, name string, there map[string]bool) (*SealedSpace, error) {
	path := filepath.Join(dir, pagesDir, name+indexSuffix)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	raw, err := mapFile(f, st.Size())
	if err != nil {
		return nil, err
	}
	defer raw.close()
	h, runs, err := decodeIndex(raw)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", path, err)
	}
	if want := indexPath(dir, h.space); want != path {
		return nil, fmt.Errorf("index %s is of %s: %w", path, h.space, ErrIndex)
	}
	var left []pagestream.Range
	if there[name+leftSuffix] {
		if left, err = openLeft(dir, h.space); err != nil {
			return nil, err
		}
	}
	data, err := openData(dataPath(dir, h.space), h.pages)
	if err != nil {
		return nil, err
	}
	return &SealedSpace{Name: h.space, runs: runs, data: data, left: left, note: there[name+givenSuffix]}, nil
}

func openData(path string, pages uint64) (mapping, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mapFile(f, int64(pages)*pagestream.PageSize)
}

// Close gives up the store's memory. Data of extents must not be touched after
// it.
func (r *Reader) Close() error {
	var err error
	for name, sp := range r.spaces {
		err = errors.Join(err, sp.data.close())
		delete(r.spaces, name)
	}
	return err
}

// ImagesDir is the directory of CRIU's images of a container.
func (r *Reader) ImagesDir(container uint16) string { return imagesPath(r.dir, container) }

// Space returns a space, nil if the store has none of this name. A nil space
// holds nothing.
func (r *Reader) Space(name pagestream.Space) *SealedSpace { return r.spaces[name] }

// Lookup returns the content of the page at vaddr, nil for a page of zeros, and
// whether the store holds it at all.
func (r *Reader) Lookup(name pagestream.Space, vaddr uint64) (data []byte, ok bool) {
	e, ok := r.Space(name).Find(vaddr)
	if !ok || e.Data == nil {
		return nil, ok
	}
	at := vaddr&^(pagestream.PageSize-1) - e.Vaddr
	return e.Data[at : at+pagestream.PageSize], true
}

// Extents walks over a space, ascending.
func (r *Reader) Extents(name pagestream.Space) iter.Seq[Extent] { return r.Space(name).Extents(0) }

// Find returns the extent that vaddr lies in.
func (sp *SealedSpace) Find(vaddr uint64) (Extent, bool) {
	if sp == nil {
		return Extent{}, false
	}
	i := sp.behind(vaddr)
	if i == len(sp.runs) || sp.runs[i].vaddr > vaddr {
		return Extent{}, false
	}
	return sp.extent(i), true
}

// Extents walks over the space, ascending, from the extent on that vaddr lies in
// or that is the next behind it.
func (sp *SealedSpace) Extents(vaddr uint64) iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		if sp == nil {
			return
		}
		for i := sp.behind(vaddr); i < len(sp.runs); i++ {
			if !yield(sp.extent(i)) {
				return
			}
		}
	}
}

// behind returns the first run that ends behind vaddr.
func (sp *SealedSpace) behind(vaddr uint64) int {
	i, _ := slices.BinarySearchFunc(sp.runs, vaddr, func(r sealedRun, v uint64) int {
		if r.end() <= v {
			return -1
		}
		return 1
	})
	return i
}

func (sp *SealedSpace) extent(i int) Extent {
	r := sp.runs[i]
	e := Extent{Vaddr: r.vaddr, Pages: uint64(r.pages)}
	if r.slot != zeroSlot {
		at := uint64(r.slot) * pagestream.PageSize
		e.Slot = uint64(r.slot)
		e.Data = sp.data[at : at+e.Pages*pagestream.PageSize : at+e.Pages*pagestream.PageSize]
	}
	return e
}

// mapping is the first bytes of a file, mapped read-only; nil if there are none.
type mapping []byte

func mapFile(f *os.File, size int64) (mapping, error) {
	if size == 0 {
		return nil, nil
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < size {
		// Reading behind the end would be a SIGBUS.
		return nil, fmt.Errorf("map %s: it has %d bytes, %d are needed: %w", f.Name(), st.Size(), size, ErrIndex)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	// As its tmpfs may have large folios, khugepaged would begin at once to copy what is mapped into huge pages (mm/khugepaged.c,
	// collapse_file): 30 ms of a processor, and its locks, just when the pod is restored. EINVAL is a kernel without it.
	if err := unix.Madvise(b, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, errors.Join(fmt.Errorf("map %s without huge pages: %w", f.Name(), err), unix.Munmap(b))
	}
	return b, nil
}

func (m mapping) close() error {
	if m == nil {
		return nil
	}
	return unix.Munmap(m)
}
