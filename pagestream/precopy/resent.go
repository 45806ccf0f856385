package precopy

import (
	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
	"godwit.dev/godwit/pagestream/pagehash"
	"godwit.dev/godwit/pagestream/track"
)

// resent leaves out of what is copied a second time and more what the destination has at
// the same address already, and has what changed but little sent as that. The first copy is not hashed: it is most of what is sent, and
// most of it is never sent again. So a page is known from its second copy on, and those
// that are written all the time, which the last copy of the frozen pod carries, are known
// by then.
//
// It knows what the destination has as long as all pages of processes are sent through it,
// and no page twice in one copy.
type resent struct {
	seed   uint64
	tables map[pagestream.Space]*pagehash.Private
	copies *delta.Cache
	shared map[pagestream.Space]bool // shared memory of which a round has sent pages
}

// newResent makes one that keeps copies of pages if deltas is true.
func newResent(deltas bool) (*resent, error) {
	seed, err := pagehash.NewSeed()
	if err != nil {
		return nil, err
	}
	bytes := 0
	if deltas {
		bytes = delta.DefaultCacheBytes
	}
	return &resent{seed: seed, tables: make(map[pagestream.Space]*pagehash.Private), copies: delta.NewCache(bytes),
		shared: make(map[pagestream.Space]bool)}, nil
}

// begin begins a round that found this.
func (r *resent) begin(found track.Round) {
	if r.copies.Pages() == 0 {
		return
	}
	written := make(map[pagestream.Space][]pagestream.Range, len(found.Processes))
	for _, p := range found.Processes {
		written[p.Space] = ascending(p.Dirty)
	}
	r.copies.Begin(func(k delta.Key) bool {
		// Rounds do not look at shared memory any more once it has copies: those are for the last one.
		return k.Space.Kind == pagestream.Shared || pagestream.Contains(written[k.Space], k.Address)
	})
}

// sift has areas leave out what the destination has. Areas are those of one copy, found is
// what they are of: of a process that ended, or is another program now, nothing is known.
func (r *resent) sift(areas []*area, found track.Round) {
	for _, space := range found.Gone {
		r.forget(space, nil)
	}
	for _, p := range found.Processes {
		if p.New {
			r.forget(p.Space, nil)
		}
	}
	seen := make(map[pagestream.Space]bool, len(areas))
	for _, a := range areas {
		table := r.tables[a.space]
		if seen[a.space] {
			// Which of two copies is stored last is not known. It has not been seen: a
			// tracker lists each process once.
			r.forget(a.space, areas)
			continue
		}
		seen[a.space] = true
		if table == nil {
			table = pagehash.NewPrivate(r.seed)
			r.tables[a.space] = table
		}
		a.sift, a.copies = table.Changed, r.copies
	}
}

// again has areas of shared memory send what changed in pages that are sent a third time, as others do. What is
// sent of a segment the first time is not kept.
func (r *resent) again(areas []*area) {
	for _, a := range areas {
		if r.shared[a.space] {
			a.copies = r.copies
		}
		r.shared[a.space] = true
	}
}

// last is again for the last copy, which may go on beside others.
func (r *resent) last(a *area) {
	if r.shared[a.space] {
		a.copies = r.copies
	}
}

// forget has all pages of a space sent, those of areas too.
func (r *resent) forget(space pagestream.Space, areas []*area) {
	for _, a := range areas {
		if a.space == space {
			a.sift, a.copies = nil, nil
		}
	}
	r.copies.Forget(space)
	if table := r.tables[space]; table != nil {
		table.Release()
		delete(r.tables, space)
	}
}

// release gives the memory back. No copy may be under way.
func (r *resent) release() error {
	for _, table := range r.tables {
		table.Release()
	}
	clear(r.tables)
	return r.copies.Release()
}
