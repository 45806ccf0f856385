package store

import (
	"context"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

// populateUnits is how much is populated by one call, in units of GiveUnit: 2 MiB.
const populateUnits = 32

// Populate maps all pages ahead of their use: whoever copies from a page that is
// mapped takes no fault. It takes 0.1 s for each GiB, and returns early when ctx
// is done. What has been given back is left out.
func (r *Reader) Populate(ctx context.Context) {
	for _, sp := range r.spaces {
		if len(sp.left) > 0 {
			continue // it would give memory to pages that may never come
		}
		sp.populate(ctx)
	}
}

// populate populates one space. Populating a hole would fill it. So it says first where
// it is, and looks then what has been given back; who gives back notes it first, and looks
// then where this is: one of the two sees the other.
func (sp *SealedSpace) populate(ctx context.Context) {
	const unit = GiveUnit * pagestream.PageSize
	defer sp.window.Store(0)
	units := (uint64(len(sp.data)) + unit - 1) / unit
	for at := uint64(0); at < units && ctx.Err() == nil; at += populateUnits {
		sp.window.Store(at/populateUnits + 1)
		end := min(at+populateUnits, units)
		g := sp.giving.Load()
		for i := at; i < end; {
			from := i
			for i < end && (g == nil || !g.Given(i)) {
				i++
			}
			if i > from {
				// Of no consequence if it fails but time.
				_ = unix.Madvise(sp.data[from*unit:min(i*unit, uint64(len(sp.data)))], unix.MADV_POPULATE_READ)
			}
			for i < end && g != nil && g.Given(i) {
				i++
			}
		}
	}
}

// populating is the units that are being populated, from the first to behind the last.
func (sp *SealedSpace) populating() (from, to uint64) {
	w := sp.window.Load()
	if w == 0 {
		return 0, 0
	}
	return (w - 1) * populateUnits, w * populateUnits
}
