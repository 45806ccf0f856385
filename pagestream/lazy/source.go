package lazy

import (
	"fmt"
	"os"
	"slices"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
)

// piece is a run of pages that a restore leaves to the fault server.
type piece struct {
	img   uint64 // address in the images
	pages uint64
	data  []byte // nil: all zero
	first uint64 // number of the first page among all pages of the source
	// stored says that data is in the store, from the page with this number of its file on.
	stored bool
	slot   uint64
}

func (p piece) end() uint64 { return p.img + p.pages*pageSize }

// source is the pages of one process of the images, in ascending pieces. It is
// read-only and shared by the process and its forked children.
type source struct {
	pid    int32
	pieces []piece
	pages  uint64
	wiped  []images.VMA // areas in which a forked child finds zeros
	files  [][]byte     // mapped pages files
	from   pageSource   // which pages are here
	bySlot []int32      // the pieces in the order in which the store has them, then the others; nil before sort

	foremost []pagestream.Range // pages to be put in place before the process runs

	space  *store.SealedSpace // nil if the store has none of the process
	giver  *giver             // nil as long as nothing is given back
	placed uint64             // pages with content that were put in place, in all memories
}

// loadSource reads which pages of a process are lazy, and where their content is:
// in its pages file if CRIU wrote it, else in the store. One that is in neither
// makes the error wrap store.ErrMissing: it would read as zero.
func loadSource(dir string, pid uint64, sp *store.SealedSpace) (*source, error) {
	path := images.PagemapPath(dir, pid)
	id, entries, err := images.ReadPagemapFile(path)
	if err != nil {
		return nil, err
	}
	s := &source{pid: int32(pid), from: local{}, space: sp}
	var offset uint64 // in the pages file
	for _, e := range entries {
		switch {
		case e.Lazy() && e.Present():
			data, err := s.pagesFile(images.PagesPath(dir, id), offset, e.Range().Bytes())
			if err != nil {
				return nil, err
			}
			s.add(e.Vaddr, e.Pages, data)
		case e.Lazy():
			if err := s.addStored(e, sp); err != nil {
				return nil, fmt.Errorf("pagemap %s: %w", path, err)
			}
		}
		if e.Present() {
			offset += e.Range().Bytes()
		}
	}
	vmas, err := images.ReadMMFile(images.MMPath(dir, pid))
	if err != nil {
		return nil, err
	}
	s.wiped = slices.DeleteFunc(vmas, func(v images.VMA) bool { return !v.WipedOnFork() })
	return s, nil
}

func (s *source) add(img, pages uint64, data []byte) {
	s.pieces = append(s.pieces, piece{img: img, pages: pages, data: data, first: s.pages})
	s.pages += pages
}

func (s *source) addStored(e images.Entry, sp *store.SealedSpace) error {
	at := e.Vaddr
	for x := range sp.Extents(e.Vaddr) {
		if x.Vaddr > at {
			break
		}
		end := min(x.End(), e.End())
		var data []byte
		if x.Data != nil {
			data = x.Data[at-x.Vaddr : end-x.Vaddr : end-x.Vaddr]
		}
		s.add(at, (end-at)/pageSize, data)
		p := &s.pieces[len(s.pieces)-1]
		p.stored, p.slot = data != nil, x.Slot+(at-x.Vaddr)/pageSize
		if at = end; at == e.End() {
			return nil
		}
	}
	return fmt.Errorf("process %d: the page at %#x is not in the store: %w", s.pid, at, store.ErrMissing)
}

// pagesFile maps a part of the pages file.
func (s *source) pagesFile(path string, offset, n uint64) ([]byte, error) {
	if len(s.files) == 0 {
		f, err := images.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		b, err := mapWhole(f)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, b)
	}
	b := s.files[0]
	if n > uint64(len(b)) || offset > uint64(len(b))-n {
		return nil, fmt.Errorf("pages file %s has %d bytes, its pagemap needs %d more at %d: %w", path, len(b), n, offset, images.ErrFormat)
	}
	return b[offset : offset+n : offset+n], nil
}

func mapWhole(f *os.File) ([]byte, error) {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", f.Name(), err)
	}
	return b, nil
}

func (s *source) close() {
	for _, b := range s.files {
		unix.Munmap(b)
	}
	s.files = nil
}

// sort finds the order by slots, once: not before the background wants it, as a pod stands
// still while its pages are looked up.
func (s *source) sort() {
	if s.bySlot != nil {
		return
	}
	s.bySlot = make([]int32, len(s.pieces))
	for i := range s.bySlot {
		s.bySlot[i] = int32(i)
	}
	key := func(i int32) uint64 {
		if p := s.pieces[i]; p.stored {
			return p.slot
		}
		return ^uint64(0)
	}
	slices.SortStableFunc(s.bySlot, func(a, b int32) int { return compare(key(a), key(b)) })
}

// behind returns the first piece that ends behind an address of the images.
func (s *source) behind(img uint64) int {
	i, _ := slices.BinarySearchFunc(s.pieces, img, func(p piece, a uint64) int {
		if p.end() <= a {
			return -1
		}
		return 1
	})
	return i
}

// address is where a page is in the images.
func (s *source) address(number uint64) uint64 {
	p := s.pieces[s.pieceOf(number)]
	return p.img + (number-p.first)*pageSize
}

// number counts a page of the images among those of the source; false if it is none.
func (s *source) number(img uint64) (uint64, bool) {
	i := s.behind(img)
	if i == len(s.pieces) || s.pieces[i].img > img || img%pageSize != 0 {
		return 0, false
	}
	return s.pieces[i].first + (img-s.pieces[i].img)/pageSize, true
}

// around is where a stretch of so many bytes begins that a page of the images is in: one
// that is whole units of the store, which can be given back when it is in place.
func (s *source) around(img, size uint64) uint64 {
	at := img
	if i := s.behind(img); i < len(s.pieces) && s.pieces[i].img <= img && s.pieces[i].stored {
		at = s.pieces[i].slot*pageSize + img - s.pieces[i].img
	}
	return img - min(at%size, img)
}

// pieceOf returns the piece that a page is in.
func (s *source) pieceOf(number uint64) int {
	i, _ := slices.BinarySearchFunc(s.pieces, number, func(p piece, n uint64) int {
		if p.first+p.pages <= n {
			return -1
		}
		return 1
	})
	return i
}

// piece returns the numbers of the first page of the piece that a page is in and of that
// behind its last.
func (s *source) piece(number uint64) (first, end uint64) {
	p := s.pieces[s.pieceOf(number)]
	return p.first, p.first + p.pages
}

// hull is the window from the first lazy page to behind the last.
func (s *source) hull() []window {
	if len(s.pieces) == 0 {
		return nil
	}
	first, last := s.pieces[0], s.pieces[len(s.pieces)-1]
	return []window{{first.img, last.end(), first.img}}
}

// each calls f for the parts of pieces that lie between two addresses of the
// images, as runs of page numbers.
func (s *source) each(start, end uint64, f func(first, n uint64)) {
	for i := s.behind(start); i < len(s.pieces) && s.pieces[i].img < end; i++ {
		p := s.pieces[i]
		from, to := max(start, p.img), min(end, p.end())
		f(p.first+(from-p.img)/pageSize, (to-from)/pageSize)
	}
}
