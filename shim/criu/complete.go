package criu

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagemap"
)

// scanRegions is how many regions one scan may return.
const scanRegions = 4096

// Present lists the pages that a frozen process has in the areas that are ours:
// those which CRIU would have found, and guard pages.
func (v *View) Present() (pages, guards []pagestream.Range, err error) {
	f, err := pagemap.Open(v.PID)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	return f.PresentPages(v.owned, make([]pagemap.Region, scanRegions))
}

// Owned are the areas whose pages are ours to account for, ascending.
func (v *View) Owned() []pagestream.Range { return v.owned }

// HidesGuards says whether guard pages in the areas that are ours are ours to list.
func (v *View) HidesGuards() bool { return v.guards }

// Complete puts the truth back into a container's images: the areas that CRIU
// was told are short and droppable become long and private again, and their present pages are
// listed, for the fault server to bring, and their guard pages, unless CRIU has looked for these itself. Images that are not complete must
// never be restored: such memory would read as zeros, or not be there.
func (v *View) Complete(dir string, present, guards []pagestream.Range) error {
	var hidden, seen []pagestream.Range
	whole := 0 // areas that CRIU has seen as they are
	_, err := images.EditMMFile(images.MMPath(dir, uint64(v.VPID)), guards, func(a images.VMA) images.VMA {
		if a.Guard() {
			seen = pagestream.AppendRun(seen, pagestream.Range{Start: a.Start, Pages: (a.End - a.Start) / pagestream.PageSize})
			return a
		}
		area, ours := v.owns(a)
		if ours && a.End == area.End() {
			whole++
		}
		if !ours || a.End != a.Start+shownBytes {
			return a
		}
		hidden = append(hidden, area)
		a.End, a.Flags = area.End(), a.Flags&^mapDroppable|mapPrivate
		return a
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil // a zombie has no memory
	}
	if err != nil {
		return fmt.Errorf("complete images: %w", err)
	}
	if len(hidden)+whole != len(v.owned) {
		return fmt.Errorf("complete images: CRIU has dumped %d of the %d areas of process %d that it was shown, and %d as they are",
			len(hidden), len(v.owned), v.PID, whole)
	}
	if missed := pagestream.Subtract(guards, seen); len(seen) > 0 && len(missed) > 0 {
		return fmt.Errorf("complete images: CRIU has not seen the guard pages of process %d at %#x", v.PID, missed[0].Start)
	}
	return v.list(dir, hidden, present)
}

// owns finds the area of ours that an area of the image is, or is the beginning of.
func (v *View) owns(a images.VMA) (pagestream.Range, bool) {
	i, found := slices.BinarySearchFunc(v.owned, a.Start, func(r pagestream.Range, start uint64) int {
		return cmp.Compare(r.Start, start)
	})
	if !found {
		return pagestream.Range{}, false
	}
	return v.owned[i], true
}

// list adds the present pages of hidden areas to the process' pagemap, but for those that are there: a CRIU that does
// not know what is droppable lists the first page of each.
func (v *View) list(dir string, hidden, present []pagestream.Range) error {
	path := images.PagemapPath(dir, uint64(v.VPID))
	id, entries, err := images.ReadPagemapFile(path)
	if err != nil {
		return fmt.Errorf("complete images: %w", err)
	}
	var listed []pagestream.Range
	for _, e := range entries {
		listed = pagestream.AppendRun(listed, pagestream.Range{Start: e.Vaddr, Pages: e.Pages})
	}
	i := 0
	for _, area := range hidden {
		for i < len(present) && present[i].End() <= area.Start {
			i++
		}
		for ; i < len(present) && present[i].Start < area.End(); i++ {
			r := clip(present[i], area)
			if r.Start == area.Start && pagestream.Contains(listed, r.Start) {
				r = pagestream.Range{Start: r.Start + pagestream.PageSize, Pages: r.Pages - 1}
			}
			if r.Pages > 0 {
				entries = append(entries, images.Entry{Vaddr: r.Start, Pages: r.Pages, Flags: images.Lazy})
			}
			if present[i].End() > area.End() {
				break // the rest belongs to the next area
			}
		}
	}
	slices.SortFunc(entries, func(a, b images.Entry) int { return cmp.Compare(a.Vaddr, b.Vaddr) })
	var image bytes.Buffer
	if err := images.WritePagemap(&image, id, entries); err != nil {
		return fmt.Errorf("complete images: %w", err)
	}
	if err := os.WriteFile(path, image.Bytes(), 0o600); err != nil {
		return fmt.Errorf("complete images: %w", err)
	}
	return nil
}

// clip is the part of r that lies in area.
func clip(r, area pagestream.Range) pagestream.Range {
	start, end := max(r.Start, area.Start), min(r.End(), area.End())
	return pagestream.Range{Start: start, Pages: (end - start) / pagestream.PageSize}
}
