package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"unsafe"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

// Pages may be left at the source and come after the store is sealed: to one that runs
// the pod already. The store gives each of them its place before that, and says in a
// file of its own which they are, as what it holds of them, if anything, is outdated.
// The file, little endian: magic 8 bytes, ranges u64, then {start, pages u64}, then a
// CRC-32C u32 of all before. Beside it is a file with a bit for each page, set when the
// page has landed.
const (
	leftMagic = "GODWITLF"
)

// MaxLeftRanges bounds the ranges of one space that may be left at the source.
const MaxLeftRanges = 1 << 22

// Leave notes that pages of a space are still at the source. Ranges of one call ascend
// and do not overlap. Errors are those of Pages.
func (s *Store) Leave(name pagestream.Space, ranges []pagestream.Range) error {
	if err := s.enter("leave pages of space "+name.String(), open); err != nil {
		return err
	}
	defer s.leave()
	sp, err := s.take(name)
	if err != nil {
		return fmt.Errorf("leave pages of space %s: %w", name, err)
	}
	end := uint64(0)
	var runs []run
	for _, r := range ranges {
		if err := r.Valid(); err != nil {
			return fmt.Errorf("leave pages of space %s: %w", name, err)
		}
		if r.Start < end {
			return fmt.Errorf("leave pages of space %s: %s begins before the end of the range before it: %w", name, r, pagestream.ErrInvalid)
		}
		end = r.End()
		if runs, err = sp.place(pageOf(r.Start), r.Pages, runs[:0]); err != nil {
			return fmt.Errorf("leave pages of space %s: %w", name, err)
		}
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	both := pagestream.Union(sp.left, ranges)
	if len(both) > MaxLeftRanges {
		return s.full(fmt.Sprintf("more than %d ranges of space %s are left at the source", MaxLeftRanges, name))
	}
	cost := int64(len(both)-len(sp.left)) * 16
	if err := s.reserve(max(cost, 0)); err != nil {
		return fmt.Errorf("leave pages of space %s: %w", name, err)
	}
	sp.left = slices.Clone(both)
	return nil
}

const leftSuffix = ".left"

func leftPath(dir string, name pagestream.Space) string {
	return filepath.Join(dir, pagesDir, fileName(name)+leftSuffix)
}

func landedPath(dir string, name pagestream.Space) string {
	return filepath.Join(dir, pagesDir, fileName(name)+".landed")
}

// sealLeft writes what is left at the source, with mu held.
func (sp *space) sealLeft() error {
	if len(sp.left) == 0 {
		return nil
	}
	b := encodeRanges(leftMagic, sp.left)
	dir := sp.store.dir
	err := writeFile(leftPath(dir, sp.name), func(w io.Writer) error { _, err := w.Write(b); return err })
	if err == nil {
		bits := make([]byte, landedSize(countPages(sp.left)))
		err = writeFile(landedPath(dir, sp.name), func(w io.Writer) error { _, err := w.Write(bits); return err })
	}
	if err != nil {
		return sp.store.fileError("write what is left at the source", err)
	}
	return nil
}

// decodeLeft reads the file; its ranges ascend, do not overlap and are valid.
func decodeLeft(b []byte) ([]pagestream.Range, error) {
	ranges, err := decodeRanges(leftMagic, MaxLeftRanges, b)
	end := uint64(0)
	for i, r := range ranges {
		if err == nil && r.Start < end {
			err = fmt.Errorf("range %d at %#x: %w", i, r.Start, ErrIndex)
		}
		end = r.End()
	}
	if err != nil {
		return nil, fmt.Errorf("pages left at the source: %w", err)
	}
	return ranges, nil
}

func countPages(ranges []pagestream.Range) (n uint64) {
	for _, r := range ranges {
		n += r.Pages
	}
	return n
}

// landedSize is the size of the bits of so many pages, in whole words.
func landedSize(pages uint64) uint64 { return (pages + 63) / 64 * 8 }

// openLeft reads what is left at the source; nil if nothing is.
func openLeft(dir string, name pagestream.Space) ([]pagestream.Range, error) {
	f, err := os.OpenFile(leftPath(dir, name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, rangesHeader+rangeSize*MaxLeftRanges+rangesTrailer+1))
	if err != nil {
		return nil, err
	}
	return decodeLeft(b)
}

// Left is the pages that were left at the source, ascending; their content is
// outdated, or nothing, until they have landed.
func (sp *SealedSpace) Left() []pagestream.Range {
	if sp == nil {
		return nil
	}
	return sp.left
}

// Landing takes the pages of a sealed space that come late. What has landed is known
// to whoever opens it next. One at a time may be open; it may be used concurrently,
// but for two Puts of one page.
type Landing struct {
	space  *SealedSpace
	data   *os.File
	words  []uint64 // the mapped bits
	mapped []byte
	before []uint64 // pages of the ranges before each
}

// OpenLanding opens the place of the pages that were left at the source.
func (r *Reader) OpenLanding(sp *SealedSpace) (*Landing, error) {
	l := &Landing{space: sp}
	var n uint64
	for _, x := range sp.left {
		l.before = append(l.before, n)
		n += x.Pages
	}
	f, err := os.OpenFile(landedPath(r.dir, sp.Name), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open landing of space %s: %w", sp.Name, err)
	}
	defer f.Close()
	size := int(landedSize(n))
	if st, err := f.Stat(); err != nil || st.Size() != int64(size) {
		return nil, errors.Join(err, fmt.Errorf("landing of space %s has not %d bytes: %w", sp.Name, size, ErrIndex))
	}
	if l.mapped, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map landing of space %s: %w", sp.Name, err)
	}
	l.words = unsafe.Slice((*uint64)(unsafe.Pointer(&l.mapped[0])), size/8)
	if l.data, err = os.OpenFile(dataPath(r.dir, sp.Name), os.O_RDWR|unix.O_NOFOLLOW, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("open landing of space %s: %w", sp.Name, err), l.Close())
	}
	return l, nil
}

// Close gives up the landing, not what has landed.
func (l *Landing) Close() error {
	err := unix.Munmap(l.mapped)
	l.mapped, l.words = nil, nil
	if l.data != nil {
		err = errors.Join(err, l.data.Close())
	}
	return err
}

// number counts a page among those that were left; false if it is none of them.
func (l *Landing) number(vaddr uint64) (uint64, bool) {
	i, _ := slices.BinarySearchFunc(l.space.left, vaddr, func(r pagestream.Range, v uint64) int {
		if r.End() <= v {
			return -1
		}
		return 1
	})
	if i == len(l.space.left) || l.space.left[i].Start > vaddr {
		return 0, false
	}
	return l.before[i] + (vaddr-l.space.left[i].Start)/pagestream.PageSize, true
}

// Landed says whether the page at vaddr, one of those that were left, is here.
func (l *Landing) Landed(vaddr uint64) bool {
	n, ok := l.number(vaddr)
	return ok && atomic.LoadUint64(&l.words[n/64])&(1<<(n%64)) != 0
}

// Put stores a page that was left at the source, nil for one of zeros. One that has landed
// is left as it is.
func (l *Landing) Put(vaddr uint64, page []byte) error {
	n, ok := l.number(vaddr)
	if !ok || vaddr%pagestream.PageSize != 0 || page != nil && len(page) != pagestream.PageSize {
		return fmt.Errorf("page %#x of space %s was not left at the source: %w", vaddr, l.space.Name, pagestream.ErrInvalid)
	}
	if atomic.LoadUint64(&l.words[n/64])&(1<<(n%64)) != 0 {
		return nil
	}
	i := l.space.behind(vaddr)
	if i == len(l.space.runs) || l.space.runs[i].vaddr > vaddr || l.space.runs[i].slot == zeroSlot {
		return fmt.Errorf("page %#x of space %s has no place: %w", vaddr, l.space.Name, ErrIndex)
	}
	r := l.space.runs[i]
	at := int64(r.slot)*pagestream.PageSize + int64(vaddr-r.vaddr)
	var err error
	if page != nil {
		_, err = l.data.WriteAt(page, at)
	} else { // a hole reads as zeros, whatever was there
		err = unix.Fallocate(int(l.data.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, pagestream.PageSize)
	}
	if err != nil {
		return fmt.Errorf("store page %#x of space %s: %w", vaddr, l.space.Name, err)
	}
	atomic.OrUint64(&l.words[n/64], 1<<(n%64))
	return nil
}
