package witness

import (
	"errors"
	"fmt"
	"strings"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
)

// fewDifferences is how many an error lists.
const fewDifferences = 4

// Compare holds what CRIU has dumped against what the container would be restored from: the images in a directory, and
// a sealed store. It returns how many pages were compared. An error wraps ErrDiffers if any page is at one of the two
// only, or has another content, and names the first few. Of shared memory, of which nobody can tell a page of zeros from
// one that is not there, only the content counts.
func (d *Dump) Compare(dir string, stored *store.Reader, container uint16) (pages uint64, err error) {
	listed, err := images.ListPagemaps(dir)
	if err != nil {
		return 0, err
	}
	c := comparison{scratch: make([]byte, pagestream.PageSize)}
	seen := make(map[Name]bool, len(listed))
	for _, l := range listed {
		x, err := openRestorable(dir, l, stored, container)
		if err != nil {
			return 0, err
		}
		seen[x.name] = true
		err = c.compare(d.spaces[x.name], x)
		if err = errors.Join(err, x.close()); err != nil {
			return 0, err
		}
	}
	for _, name := range d.names() {
		if !seen[name] {
			if err := c.compare(d.spaces[name], &restorable{name: name}); err != nil {
				return 0, err
			}
		}
	}
	return c.pages, c.result()
}

// comparison is what was found so far.
type comparison struct {
	pages     uint64 // that were compared
	different uint64 // of them
	first     []string
	scratch   []byte
}

func (c *comparison) result() error {
	if c.different == 0 {
		return nil
	}
	more := ""
	if n := c.different - uint64(len(c.first)); n > 0 {
		more = fmt.Sprintf(", and %d more", n)
	}
	return fmt.Errorf("%w in %d of %d pages: %s%s", ErrDiffers, c.different, c.pages, strings.Join(c.first, ", "), more)
}

func (c *comparison) differs(name Name, page uint64, how string) {
	c.different++
	if len(c.first) < fewDifferences {
		c.first = append(c.first, fmt.Sprintf("%s %d at %#x: %s", name.Kind, name.ID, page, how))
	}
}

// compare walks over both lists of pages of one address space. sp is nil if CRIU has dumped none.
func (c *comparison) compare(sp *space, x *restorable) error {
	if sp == nil {
		sp = new(space)
	}
	dumped := walk{sp: sp}
	for _, e := range x.entries {
		for page := e.Vaddr; page < e.End(); page += pagestream.PageSize {
			for dumped.more() && dumped.page() < page {
				c.onlyDumped(x.name, &dumped)
			}
			content, err := x.content(e, page)
			if err != nil {
				return fmt.Errorf("page %#x of %s %d: %w", page, x.name.Kind, x.name.ID, err)
			}
			here := c.hash(sp, page, content)
			c.pages++
			if dumped.more() && dumped.page() == page {
				if dumped.hash() != here {
					c.differs(x.name, page, "another content")
				}
				dumped.next()
			} else if x.name.Kind == pagestream.Process || here != zeroHash {
				c.differs(x.name, page, "CRIU has not dumped it")
			}
		}
	}
	for dumped.more() {
		c.onlyDumped(x.name, &dumped)
	}
	return nil
}

// hash is that of a page which would be restored.
func (c *comparison) hash(sp *space, page uint64, content []byte) hash {
	if content == nil {
		return zeroHash
	}
	return sp.hash(page, content, c.scratch)
}

// onlyDumped is for a page that would not be restored.
func (c *comparison) onlyDumped(name Name, dumped *walk) {
	c.pages++
	if name.Kind == pagestream.Process || dumped.hash() != zeroHash {
		c.differs(name, dumped.page(), "it would not be restored")
	}
	dumped.next()
}

// walk goes through the pages that CRIU has dumped of a space.
type walk struct {
	sp     *space
	run    int
	within uint64 // page of the run
	number int    // of the hash
}

func (w *walk) more() bool   { return w.run < len(w.sp.runs) }
func (w *walk) page() uint64 { return w.sp.runs[w.run].Start + w.within*pagestream.PageSize }
func (w *walk) hash() hash   { return w.sp.hashes[w.number] }

func (w *walk) next() {
	w.number++
	if w.within++; w.within == w.sp.runs[w.run].Pages {
		w.run, w.within = w.run+1, 0
	}
}
