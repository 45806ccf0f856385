package store

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"golang.org/x/sys/unix"
)

// MaterializeShared makes the pages file of each shared memory of a container
// whose pagemap is there and whose pages file is not: the source does not send
// what it has sent ahead. Every page that the pagemap lists has to be held, else
// the error wraps ErrMissing. The store gives the pages up, so that
// shared memory is not held twice here before CRIU makes it once more: after an error
// the store is broken.
//
// The pod stands still meanwhile. So nothing is copied where that can be: the space's data
// file becomes the pages file, and the pagemap lists the pages in its order. See arrange.
func (s *Store) MaterializeShared(container uint16) error {
	if err := s.enter("write shared memory", open, sealed); err != nil {
		return err
	}
	defer s.leave()
	dir := imagesPath(s.dir, container)
	maps, err := images.ListPagemaps(dir)
	if err != nil {
		return fmt.Errorf("write shared memory of container %d: %w", container, err)
	}
	for _, l := range maps {
		if !l.Shared {
			continue
		}
		name := pagestream.Space{Container: container, Kind: pagestream.Shared, ID: l.ID}
		if err := s.materialize(name, dir, l.Path); err != nil {
			return err
		}
	}
	return nil
}

// materialize makes the pages file of one shared memory, if it is not there.
func (s *Store) materialize(name pagestream.Space, dir, pagemap string) error {
	id, err := images.ReadPagesID(pagemap)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(images.PagesPath(dir, id)); !errors.Is(err, os.ErrNotExist) {
		if err != nil {
			return fmt.Errorf("write shared memory %s: %w", name, err)
		}
		return nil
	}
	_, entries, err := images.ReadPagemapFile(pagemap)
	if err != nil {
		return err
	}
	for i := range entries {
		// None of them is in a pages file, wherever CRIU put it.
		entries[i].Flags = images.Lazy
	}
	done := false
	if s.state == open { // the index of a sealed one names the data file
		done, err = s.handOver(name, dir, pagemap, id, entries)
	}
	if err == nil && !done {
		err = s.writeLayer(name, dir, pagemap, id, entries, true)
	}
	if err != nil {
		return s.breakOff(fmt.Errorf("write shared memory %s: %w", name, err))
	}
	return nil
}

// handOver makes the data file of a space the pages file of its shared memory, and forgets
// the space. False, without an error: its pages have to be copied.
func (s *Store) handOver(name pagestream.Space, dir, pagemap string, id images.PagesID, entries []images.Entry) (bool, error) {
	if err := name.Valid(); err != nil {
		return false, err
	}
	sp, err := s.lookup(name)
	if err != nil || sp == nil {
		return false, err
	}
	if missing := sp.missing(name, entries, nil); len(missing) > 0 {
		return false, missingError("write pages file", missing[0])
	}
	done, err := sp.becomePagesFile(dir, pagemap, id, entries)
	if err != nil || !done {
		return false, err
	}
	return true, s.forget(sp)
}

// becomePagesFile moves the data file to where the pagemap's pages file belongs, with a
// pagemap in its order.
func (sp *space) becomePagesFile(dir, pagemap string, id images.PagesID, entries []images.Entry) (bool, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	arranged, unused, ok := sp.arrange(entries)
	if !ok {
		return false, nil
	}
	for _, r := range unused {
		const how = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		at, n := int64(r.slot)*pagestream.PageSize, int64(r.pages*pagestream.PageSize)
		if err := unix.Fallocate(int(sp.file.Fd()), how, at, n); err != nil {
			return false, fmt.Errorf("give up stored pages: %w", err)
		}
	}
	if err := sp.file.Truncate(int64(sp.slots) * pagestream.PageSize); err != nil {
		return false, sp.store.fileError("set the size of a pages file", err)
	}
	if err := writeFile(pagemap+newSuffix, func(w io.Writer) error { return images.WriteArranged(w, id, arranged) }); err != nil {
		return false, sp.store.fileError("write pagemap", err)
	}
	// As with writeLayer, images after an error between the two are not to be restored.
	if err := os.Rename(dataPath(sp.store.dir, sp.name), images.PagesPath(dir, id)); err != nil {
		return false, err
	}
	return true, os.Rename(pagemap+newSuffix, pagemap)
}

// forget drops a space whose data file is not the store's any more.
func (s *Store) forget(sp *space) error {
	s.spacesMu.Lock()
	delete(s.spaces, sp.name)
	s.spacesMu.Unlock()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.dropped = true
	s.used.Add(-sp.taken())
	return sp.file.Close()
}

// Pages of the data file that the pagemap does not list become holes and are listed all the
// same, as CRIU finds the others by counting. So they are there afterwards, as pages of
// zeros, which they would read as anyway; more than a few would be memory that the pod does
// not have.
const (
	fewUnused   = 64
	unusedShare = 16 // of this many pages, one
)

// CRIU makes one call for each entry. Pages that came in no order at all are copied into one.
const (
	fewEntries = 1024
	entryPages = 8 // in an entry, on average
)

// arrange lists the pages of the data file in their order, as a pagemap of the entries, and
// those among them that are not to keep their content. Listed pages of zeros that have no
// place in the file are left out: memory that nobody writes reads as zeros. mu is held.
//
// It is false if there are too many to be listed for nothing, if they are in no order, or if one is behind the last of
// the entries: CRIU makes the memory no longer than that, and ends at such a page.
func (sp *space) arrange(entries []images.Entry) (arranged []images.Entry, unused []run, ok bool) {
	var end, few uint64
	if n := len(entries); n > 0 {
		end = pageOf(entries[n-1].End())
	}
	for _, r := range sp.index.placed() {
		if r.page+r.pages > end {
			return nil, nil, false
		}
		arranged = append(arranged, images.Entry{Vaddr: r.page * pagestream.PageSize, Pages: r.pages, Flags: images.Present})
		outside := unlisted(r, entries)
		for _, part := range outside {
			few += part.pages
		}
		if r.zero { // the data file has what was there before
			outside = []run{r}
		}
		unused = append(unused, outside...)
	}
	slots := uint64(sp.slots)
	return arranged, unused, few <= max(fewUnused, slots/unusedShare) && uint64(len(arranged)) <= max(fewEntries, slots/entryPages)
}

// unlisted is what of a run, which has slots, is in none of the entries, which ascend.
func unlisted(r run, entries []images.Entry) (parts []run) {
	at, end := r.page, r.page+r.pages
	i, _ := slices.BinarySearchFunc(entries, at, func(e images.Entry, page uint64) int {
		if pageOf(e.End()) <= page {
			return -1
		}
		return 1
	})
	for ; at < end; i++ {
		next := end
		if i < len(entries) {
			next = min(next, pageOf(entries[i].Vaddr))
		}
		if next > at {
			parts = append(parts, run{page: at, pages: next - at, slot: r.slot + uint32(at-r.page)})
		}
		if i == len(entries) {
			break
		}
		at = max(at, pageOf(entries[i].End()))
	}
	return parts
}

// placed lists the slots, ascending and without a gap, with the pages that are in them or,
// before they became zero, were.
func (x *index) placed() []run {
	var all []run
	for _, k := range x.keys() {
		c := x.chunks[k]
		if c == allZero {
			continue
		}
		for i := uint64(0); i < chunkPages; {
			if !c.entries[i].hasSlot() {
				i++
				continue
			}
			r := run{page: k*chunkPages + i, pages: 1, slot: c.entries[i].slot(), zero: !c.entries[i].data()}
			if !r.zero {
				r.pages = c.alike(i)
			}
			i += r.pages
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b run) int { return cmp.Compare(a.slot, b.slot) })
	joined := all[:0]
	for _, r := range all {
		if n := len(joined) - 1; n >= 0 && joined[n].continues(r) && uint64(joined[n].slot)+joined[n].pages == uint64(r.slot) {
			joined[n].pages += r.pages
			continue
		}
		joined = append(joined, r)
	}
	return joined
}
