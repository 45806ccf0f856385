package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"godwit.dev/godwit/pagestream"
)

// spaceOverhead is what a space takes beside pages and index, roughly.
const spaceOverhead = 4096

// space is the pages of one address space.
type space struct {
	name  pagestream.Space
	store *Store
	file  *os.File

	// mu guards what follows. The data file is written without it: a slot is
	// its page's alone.
	mu      sync.Mutex
	index   index
	slots   uint32
	dropped bool
	left    []pagestream.Range // still at the source, see Leave
	recent  recent
}

// taken is what the space takes of the store's limit, bytes. mu is held.
func (sp *space) taken() int64 {
	return sp.index.bytes + int64(sp.slots)*pagestream.PageSize + spaceOverhead
}

func fileName(name pagestream.Space) string {
	return strconv.Itoa(int(name.Container)) + "-" + name.Kind.String() + "-" + strconv.FormatUint(name.ID, 10)
}

func dataPath(dir string, name pagestream.Space) string {
	return filepath.Join(dir, pagesDir, fileName(name)+".data")
}

// Pages stores the content of pages that lie one behind the other from vaddr on,
// in the place of what was there before. data is a multiple of PageSize and is
// not kept. Errors wrap ErrFull at the limit, pagestream.ErrInvalid for a space
// or range that cannot be, ErrState after Seal or Close.
func (s *Store) Pages(name pagestream.Space, vaddr uint64, data []byte) error {
	if len(data)%pagestream.PageSize != 0 {
		return fmt.Errorf("pages of space %s at %#x: %d bytes are no whole pages: %w", name, vaddr, len(data), pagestream.ErrInvalid)
	}
	r := pagestream.Range{Start: vaddr, Pages: uint64(len(data) / pagestream.PageSize)}
	if err := r.Valid(); err != nil {
		return fmt.Errorf("pages of space %s: %w", name, err)
	}
	if err := s.enter("pages of space "+name.String(), open); err != nil {
		return err
	}
	defer s.leave()
	sp, err := s.take(name)
	if err != nil {
		return fmt.Errorf("pages of space %s: %w", name, err)
	}
	var few [16]run
	runs, err := sp.place(pageOf(vaddr), r.Pages, few[:0])
	if err != nil {
		return fmt.Errorf("pages of space %s: %w", name, err)
	}
	for _, run := range runs {
		at := (run.page - pageOf(vaddr)) * pagestream.PageSize
		b := data[at : at+run.pages*pagestream.PageSize]
		if _, err := sp.file.WriteAt(b, int64(run.slot)*pagestream.PageSize); err != nil {
			return s.breakOff(s.fileError("write pages of space "+name.String(), err))
		}
	}
	return nil
}

// MaxZeroPages bounds one call of Zero: 64 GiB.
const MaxZeroPages = 1 << 24

// Zero makes up to MaxZeroPages zero, in the place of what was there before,
// without taking a page of memory for them. Errors are those of Pages.
func (s *Store) Zero(name pagestream.Space, vaddr, pages uint64) error {
	r := pagestream.Range{Start: vaddr, Pages: pages}
	if err := r.Valid(); err != nil {
		return fmt.Errorf("zero pages of space %s: %w", name, err)
	}
	if pages > MaxZeroPages {
		return fmt.Errorf("zero pages of space %s: %d at once, at most %d are allowed: %w", name, pages, MaxZeroPages, pagestream.ErrInvalid)
	}
	if err := s.enter("zero pages of space "+name.String(), open); err != nil {
		return err
	}
	defer s.leave()
	sp, err := s.take(name)
	if err != nil {
		return fmt.Errorf("zero pages of space %s: %w", name, err)
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.dropped {
		return fmt.Errorf("zero pages of space %s: it was dropped: %w", name, ErrState)
	}
	cost := sp.index.cost(pageOf(vaddr), pages, true)
	if err := s.reserve(cost); err != nil {
		return fmt.Errorf("zero pages of space %s: %w", name, err)
	}
	before := sp.index.bytes
	sp.index.setZero(pageOf(vaddr), pages)
	s.used.Add(sp.index.bytes - before - cost)
	return nil
}

// place gives a slot to each page of a run that has none, marks them all as
// having content, and appends to runs where they go in the data file. Pages that
// are all new get slots that lie one behind the other.
func (sp *space) place(page, pages uint64, runs []run) ([]run, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.dropped {
		return nil, fmt.Errorf("it was dropped: %w", ErrState)
	}
	fresh := int64(pages) - sp.index.slotted(page, pages)
	if int64(sp.slots)+fresh > maxSlots {
		return nil, sp.store.full(fmt.Sprintf("%d pages are the most that a space can have", maxSlots))
	}
	reserved := fresh*pagestream.PageSize + sp.index.cost(page, pages, false)
	if err := sp.store.reserve(reserved); err != nil {
		return nil, err
	}
	sp.recent.note(pagestream.Range{Start: page * pagestream.PageSize, Pages: pages})
	for end := page + pages; page < end; {
		i, n := page%chunkPages, min(chunkPages-page%chunkPages, end-page)
		c := sp.index.writable(page / chunkPages)
		for j := i; j < i+n; j++ {
			e := c.entries[j] & slotMask
			if !e.hasSlot() {
				sp.slots++
				e = entry(sp.slots)
			}
			if was := c.set(j, e); !was.data() {
				if was != 0 {
					sp.index.zero--
				}
				sp.index.data++
			}
			o := run{page: page, pages: 1, slot: e.slot()}
			page++
			if k := len(runs) - 1; k >= 0 && runs[k].continues(o) {
				runs[k].pages++
				continue
			}
			runs = append(runs, o)
		}
	}
	return runs, nil
}

// slotted counts the pages of a run that have a slot.
func (x *index) slotted(page, pages uint64) int64 {
	var have int64
	for end := page + pages; page < end; {
		i, n := page%chunkPages, min(chunkPages-page%chunkPages, end-page)
		if c := x.chunks[page/chunkPages]; c != nil && c != allZero {
			for _, e := range c.entries[i : i+n] {
				if e.hasSlot() {
					have++
				}
			}
		}
		page += n
	}
	return have
}
