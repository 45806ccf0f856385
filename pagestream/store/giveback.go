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

// A sealed space gives its memory back as its pages are put where they are needed: by
// holes in its data file, a unit at a time. What has been given back is noted before it
// is, in a file beside the data with a bit for each unit, so that whoever opens the space
// after a crash never takes a hole for content. What a crash left noted and not given back
// is when the space is opened again.
//
// UFFDIO_MOVE, which would take the pages themselves, takes only private anonymous
// memory, and a tmpfs has none.

// GiveUnit is the least of a data file that is given back, in pages: what the fault server
// fills in around a fault. Larger units would wait longer for their last page. The
// background has more at once, whole folios; to give a part back splits a folio.
const GiveUnit = 16

// Giving gives the memory of one sealed space back. All its methods but Given are for one
// goroutine.
type Giving struct {
	space  *SealedSpace
	data   *os.File
	bits   []uint64 // the note, mapped
	mapped []byte
	units  uint64
	held   uint64 // pages
}

const givenSuffix = ".given"

func givenPath(dir string, name pagestream.Space) string {
	return filepath.Join(dir, pagesDir, fileName(name)+givenSuffix)
}

// OpenGiving opens the note of what has been given back, and makes it if there is none.
// If there is no room for it, so that nothing has been given back and nothing can be, the
// error wraps ErrFull. It is called once for a space.
func (r *Reader) OpenGiving(sp *SealedSpace) (*Giving, error) {
	pages := uint64(len(sp.data)) / pagestream.PageSize
	units := (pages + GiveUnit - 1) / GiveUnit
	g := &Giving{space: sp, units: units, held: pages}
	if units == 0 {
		return g, nil
	}
	path, size := givenPath(r.dir, sp.Name), int(units+63)/64*8
	f, err := openNote(path, size)
	if err != nil {
		return nil, fmt.Errorf("open the note of what space %s gives back: %w", sp.Name, err)
	}
	defer f.Close()
	if g.mapped, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the note of what space %s gives back: %w", sp.Name, err)
	}
	g.bits = unsafe.Slice((*uint64)(unsafe.Pointer(&g.mapped[0])), size/8)
	if g.data, err = os.OpenFile(dataPath(r.dir, sp.Name), os.O_RDWR|unix.O_NOFOLLOW, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("open what space %s gives back: %w", sp.Name, err), g.Close())
	}
	sp.giving.Store(g)
	for i := uint64(0); i < units; {
		n := uint64(0)
		for i+n < units && g.Given(i+n) {
			n++
		}
		if n > 0 { // again: who noted it may have died before it was
			if err := g.punch(i, n); err != nil {
				return nil, errors.Join(err, g.Close())
			}
		}
		i += n + 1
	}
	return g, nil
}

// GaveBack says whether a space has given anything back: then it serves no restore from the
// beginning any more. What another process began to give back after the space was opened is not
// seen: one at a time does.
func (r *Reader) GaveBack(sp *SealedSpace) (bool, error) {
	if !sp.note && sp.giving.Load() == nil {
		return false, nil
	}
	b, err := os.ReadFile(givenPath(r.dir, sp.Name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("what space %s has given back: %w", sp.Name, err)
	}
	return slices.ContainsFunc(b, func(c byte) bool { return c != 0 }), nil
}

// openNote opens a note of so many bytes. One that is made is whole: its pages are there,
// so that writing to them by a mapping cannot fail.
func openNote(path string, size int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		err = writeFile(path+newSuffix, func(w io.Writer) error { _, err := w.Write(make([]byte, size)); return err })
		if err == nil {
			err = os.Rename(path+newSuffix, path)
		}
		if errors.Is(err, unix.ENOSPC) {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrFull, err), os.Remove(path+newSuffix))
		}
		if err == nil {
			f, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
		}
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != int64(size) {
		err = fmt.Errorf("%s has %d bytes, not %d: %w", path, st.Size(), size, ErrIndex)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Units is the number of units that the space has.
func (g *Giving) Units() uint64 { return g.units }

// Given says whether a unit has been given back, or noted to be: nothing in it may be read.
func (g *Giving) Given(unit uint64) bool {
	return atomic.LoadUint64(&g.bits[unit/64])&(1<<(unit%64)) != 0
}

// pages is how many pages n units from first on have.
func (g *Giving) pages(first, n uint64) uint64 {
	return min((first+n)*GiveUnit, uint64(len(g.space.data))/pagestream.PageSize) - first*GiveUnit
}

// Held is the number of pages of the space's data file that have not been given back, whether
// they were ever written or not.
func (g *Giving) Held() uint64 { return g.held }

// Give notes n units from first on and gives them back. What they hold is lost, for every
// reader of the space.
func (g *Giving) Give(first, n uint64) error {
	for i := first; i < first+n; i++ {
		atomic.OrUint64(&g.bits[i/64], 1<<(i%64))
	}
	return g.punch(first, n)
}

// punch gives noted units back.
func (g *Giving) punch(first, n uint64) error {
	at, size := int64(first*GiveUnit*pagestream.PageSize), int64(n*GiveUnit*pagestream.PageSize)
	if err := unix.Fallocate(int(g.data.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, size); err != nil {
		return fmt.Errorf("give back memory of space %s: %w", g.space.Name, err)
	}
	g.held -= g.pages(first, n)
	return nil
}

// Close ends the giving, and leaves what was given back as it is.
func (g *Giving) Close() error {
	var err error
	if g.mapped != nil {
		err = unix.Munmap(g.mapped)
		g.mapped, g.bits = nil, nil
	}
	if g.data != nil {
		err = errors.Join(err, g.data.Close())
	}
	return err
}
