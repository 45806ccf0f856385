package witness

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// Dump is which pages a container has, and a hash of each.
type Dump struct {
	spaces map[Name]*space
}

// space is the pages of one address space. Its runs ascend and do not overlap.
type space struct {
	runs   []pagestream.Range
	hashes []hash // of all runs' pages, in their order
	// exempt are parts of pages, ascending, that count as zeros: the kernel writes them.
	exempt []images.Sequence
}

// Pages is how many pages there are in all spaces.
func (d *Dump) Pages() (pages uint64) {
	for _, sp := range d.spaces {
		pages += uint64(len(sp.hashes))
	}
	return pages
}

// names are those of the spaces, in an order.
func (d *Dump) names() []Name {
	return slices.SortedFunc(maps.Keys(d.spaces), func(a, b Name) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
}

// Exempt has parts of the pages of a process count as zeros, and hashes the pages in which they lie anew: read gives the
// content of one, which has to be what it was when CRIU dumped it, beside those parts.
func (d *Dump) Exempt(pid uint64, parts []images.Sequence, read func(page uint64, content []byte) error) error {
	sp := d.spaces[Name{pagestream.Process, pid}]
	if sp == nil {
		return nil
	}
	sp.exempt = append(sp.exempt, parts...)
	slices.SortFunc(sp.exempt, func(a, b images.Sequence) int { return cmp.Compare(a.Addr, b.Addr) })
	for _, part := range sp.exempt {
		const mask = ^uint64(pagestream.PageSize - 1)
		for page := part.Addr & mask; page < part.Addr+part.Size; page += pagestream.PageSize {
			if err := d.Reread(pid, page, read); err != nil {
				return err
			}
		}
	}
	return nil
}

// Reread hashes a page of a process anew, if CRIU has dumped it; read gives its content as it is now.
func (d *Dump) Reread(pid, page uint64, read func(page uint64, content []byte) error) error {
	sp := d.spaces[Name{pagestream.Process, pid}]
	if sp == nil {
		return nil
	}
	i, ok := sp.find(page)
	if !ok {
		return nil
	}
	content, scratch := make([]byte, pagestream.PageSize), make([]byte, pagestream.PageSize)
	if err := read(page, content); err != nil {
		return fmt.Errorf("page %#x of process %d: %w", page, pid, err)
	}
	sp.hashes[i] = sp.hash(page, content, scratch)
	return nil
}

// find gives the number of a page among the space's hashes.
func (sp *space) find(page uint64) (number uint64, ok bool) {
	for _, r := range sp.runs {
		if page < r.Start {
			break
		}
		if page < r.End() {
			return number + (page-r.Start)/pagestream.PageSize, true
		}
		number += r.Pages
	}
	return 0, false
}

// hash is that of a page, without what is exempt. scratch is room for a page.
func (sp *space) hash(page uint64, content, scratch []byte) hash {
	parts := sp.exemptFrom(page)
	if len(parts) == 0 || parts[0].Addr >= page+pagestream.PageSize {
		return xxh3.Hash128(content)
	}
	copy(scratch, content)
	for _, part := range parts {
		from, to := max(part.Addr, page), min(part.Addr+part.Size, page+pagestream.PageSize)
		if from >= to {
			break
		}
		clear(scratch[from-page : to-page])
	}
	return xxh3.Hash128(scratch)
}

// exemptFrom is what is exempt from an address on.
func (sp *space) exemptFrom(at uint64) []images.Sequence {
	i, _ := slices.BinarySearchFunc(sp.exempt, at, func(s images.Sequence, at uint64) int {
		if s.Addr+s.Size <= at {
			return -1
		}
		return 1
	})
	return sp.exempt[i:]
}

// Recorder takes in the pages that CRIU sends. It implements pageserver.Pages.
type Recorder struct {
	mu    sync.Mutex
	parts map[Name][]part // as they came; guarded by mu
	pages atomic.Uint64
}

// part is a run of pages that came together.
type part struct {
	pagestream.Range
	hashes []hash
}

// NewRecorder makes one that has taken in nothing.
func NewRecorder() *Recorder { return &Recorder{parts: make(map[Name][]part)} }

// Pages is how many have come so far.
func (r *Recorder) Pages() uint64 { return r.pages.Load() }

// Runs takes in pages of a space; see pageserver.Pages.
func (r *Recorder) Runs(space pagestream.Space, runs []pagestream.Range, data []byte) error {
	parts := make([]part, 0, len(runs))
	var pages uint64
	for _, run := range runs {
		if run.Bytes() > uint64(len(data)) {
			return fmt.Errorf("pages %v of %s: %d bytes have come of them: %w", run, space, len(data), pagestream.ErrInvalid)
		}
		p := part{run, make([]hash, run.Pages)}
		for i := range p.hashes {
			p.hashes[i] = xxh3.Hash128(data[i*pagestream.PageSize : (i+1)*pagestream.PageSize])
		}
		data = data[run.Bytes():]
		parts, pages = append(parts, p), pages+run.Pages
	}
	name := Name{space.Kind, space.ID}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts[name] = append(r.parts[name], parts...)
	r.pages.Add(pages)
	return nil
}

// Dump is what has come. A page that came twice is an error.
func (r *Recorder) Dump() (*Dump, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := &Dump{spaces: make(map[Name]*space, len(r.parts))}
	for name, parts := range r.parts {
		slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.Start, b.Start) })
		sp := new(space)
		for i, p := range parts {
			if i > 0 && p.Start < parts[i-1].End() {
				return nil, fmt.Errorf("page %#x of %s %d was dumped twice: %w", p.Start, name.Kind, name.ID, pagestream.ErrInvalid)
			}
			sp.runs = pagestream.AppendRun(sp.runs, p.Range)
			sp.hashes = append(sp.hashes, p.hashes...)
		}
		d.spaces[name] = sp
	}
	return d, nil
}
