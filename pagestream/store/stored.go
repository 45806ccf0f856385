package store

import (
	"fmt"

	"godwit.dev/godwit/pagestream"
)

// Stored reads the pages from vaddr on as they were stored last into data, a multiple of
// PageSize, while the store is open. Errors wrap ErrMissing for a page that never came,
// pagestream.ErrInvalid for a space or range that cannot be, ErrState after Seal or Close.
func (s *Store) Stored(name pagestream.Space, vaddr uint64, data []byte) error {
	r := pagestream.Range{Start: vaddr, Pages: uint64(len(data) / pagestream.PageSize)}
	err := r.Valid()
	if err == nil && len(data)%pagestream.PageSize != 0 {
		err = fmt.Errorf("%d bytes are no whole pages: %w", len(data), pagestream.ErrInvalid)
	}
	if err != nil {
		return fmt.Errorf("read pages of space %s: %w", name, err)
	}
	if err := s.enter("read pages of space "+name.String(), open); err != nil {
		return err
	}
	defer s.leave()
	sp, err := s.lookup(name)
	if err != nil {
		return fmt.Errorf("read pages of space %s: %w", name, err)
	}
	if sp == nil {
		return missingError("read pages", Missing{name, r})
	}
	var few [16]run
	runs, err := sp.where(pageOf(vaddr), r.Pages, few[:0])
	if err != nil {
		return err
	}
	for _, run := range runs {
		at := (run.page - pageOf(vaddr)) * pagestream.PageSize
		b := data[at : at+run.pages*pagestream.PageSize]
		if run.zero {
			clear(b)
			continue
		}
		if _, err := sp.file.ReadAt(b, int64(run.slot)*pagestream.PageSize); err != nil {
			return fmt.Errorf("read pages of space %s: %w", name, err)
		}
	}
	return nil
}

// where appends to runs where the pages of a run are. That one is not there is an error
// that wraps ErrMissing.
func (sp *space) where(page, pages uint64, runs []run) ([]run, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.dropped {
		return nil, fmt.Errorf("read pages of space %s: it was dropped: %w", sp.name, ErrState)
	}
	err := sp.index.within(page, pages, func(r run) error {
		if r.slot == absentSlot {
			return missingError("read pages", Missing{sp.name, pagestream.Range{Start: r.page * pagestream.PageSize, Pages: 1}})
		}
		runs = append(runs, r)
		return nil
	})
	return runs, err
}
