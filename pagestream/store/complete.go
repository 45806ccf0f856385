package store

import (
	"errors"
	"fmt"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// Missing is a run of pages that a restore needs and the store does not hold.
type Missing struct {
	Space pagestream.Space
	Range pagestream.Range
}

func (m Missing) String() string { return m.Space.String() + " " + m.Range.String() }

// maxMissing bounds what Complete lists. That anything is missing is what
// matters; more than this is no help to who looks for the reason.
const maxMissing = 1024

// Complete compares the store with CRIU's images of a container, which have to
// be there: each page that a process' pagemap lists but the images do not hold
// must be held by the store, as content or as zero. It returns what is missing,
// at most the first 1024 runs of it. Shared memory is MaterializeShared's.
func (s *Store) Complete(container uint16) ([]Missing, error) {
	if err := s.enter("compare with the images", open, sealed); err != nil {
		return nil, err
	}
	defer s.leave()
	maps, err := images.ListPagemaps(imagesPath(s.dir, container))
	if err != nil {
		return nil, fmt.Errorf("compare with the images of container %d: %w", container, err)
	}
	var missing []Missing
	for _, l := range maps {
		if l.Shared {
			continue
		}
		name := pagestream.Space{Container: container, Kind: pagestream.Process, ID: l.ID}
		if err := name.Valid(); err != nil {
			return nil, fmt.Errorf("pagemap %s: %w", l.Path, err)
		}
		_, entries, err := images.ReadPagemapFile(l.Path)
		if err != nil {
			return nil, err
		}
		sp, err := s.lookup(name)
		if err != nil {
			return nil, err
		}
		missing = sp.missing(name, entries, missing)
		if len(missing) == maxMissing {
			break
		}
	}
	return missing, nil
}

// missing appends to out the runs of the entries not in the images that the
// space does not hold. The space may be nil.
func (sp *space) missing(name pagestream.Space, entries []images.Entry, out []Missing) []Missing {
	x := new(index)
	if sp != nil {
		sp.mu.Lock()
		defer sp.mu.Unlock()
		x = &sp.index
	}
	keys := x.keys()
	for _, e := range entries {
		if e.Present() {
			continue
		}
		x.absent(pageOf(e.Vaddr), e.Pages, keys, func(page, pages uint64) {
			if len(out) < maxMissing {
				out = append(out, Missing{name, pagestream.Range{Start: page * pagestream.PageSize, Pages: pages}})
			}
		})
		if len(out) == maxMissing {
			break
		}
	}
	return out
}

// missingError is what a restore that needs the pages cannot do without.
func missingError(what string, m Missing) error {
	return fmt.Errorf("%s: %s is not in the store: the source has not sent it: %w", what, m, ErrMissing)
}

// ErrMissing is wrapped by the error of a call that needs a page which the store
// does not hold.
var ErrMissing = errors.New("page missing")
