package precopy

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// SharedStat is what FinishShared did.
type SharedStat struct {
	Segments int    // dumped
	Pages    uint64 // dumped
	Copied   CopyStats
	Took     time.Duration
}

// FinishShared sends, of the shared memory that CRIU dumped into dir, the
// images of one container, those pages that are not at the destination yet. It
// returns when they are stored, with the names of the pages files whose whole
// content is now in the store and which must not be sent; their pagemaps must.
//
// It may run beside Final, and for several containers at once.
func (r *Rounds) FinishShared(ctx context.Context, container uint16, dir string) ([]string, SharedStat, error) {
	began := time.Now()
	dumped, err := openDumped(container, dir)
	if err != nil {
		return nil, SharedStat{}, fmt.Errorf("shared memory in %s: %w", dir, err)
	}
	defer func() {
		for _, d := range dumped {
			d.pages.Close()
		}
	}()
	stat := SharedStat{Segments: len(dumped)}
	var areas []*area
	var names []string
	for _, d := range dumped {
		areas = append(areas, r.lastArea(d.space, d.source, d.source.ranges()))
		names = append(names, d.name)
	}
	stat.Pages = pagesOfAreas(areas)
	stat.Copied, err = r.lastShared(ctx, areas)
	stat.Took = time.Since(began)
	if err != nil {
		return nil, stat, fmt.Errorf("shared memory in %s: %w", dir, err)
	}
	return names, stat, nil
}

// FrozenShared reads shared memory of a frozen process in place, for a dump
// that leaves its content out.
type FrozenShared interface {
	// Segments lists the shared memory and the pages that it has.
	Segments() map[pagestream.Space][]pagestream.Range
	// Read copies the pages of runs, one after the other, into buf. It is
	// called by several goroutines at once.
	Read(space pagestream.Space, runs []pagestream.Range, buf []byte) error
}

// FinishSharedFrozen is FinishShared with the content read in place.
func (r *Rounds) FinishSharedFrozen(ctx context.Context, frozen FrozenShared) (SharedStat, error) {
	began := time.Now()
	var areas []*area
	for space, ranges := range frozen.Segments() {
		areas = append(areas, r.lastArea(space, frozenSource{frozen, space}, ranges))
	}
	stat := SharedStat{Segments: len(areas), Pages: pagesOfAreas(areas)}
	var err error
	stat.Copied, err = r.lastShared(ctx, areas)
	stat.Took = time.Since(began)
	if err != nil {
		return stat, fmt.Errorf("frozen shared memory: %w", err)
	}
	return stat, nil
}

// lastArea is an area of which only what is not at the destination is sent.
func (r *Rounds) lastArea(space pagestream.Space, source source, ranges []pagestream.Range) *area {
	a := &area{space: space, source: source, ranges: ranges}
	if r.config.Shared == nil {
		return a
	}
	if h := r.config.Shared.hashesOf(space); h != nil {
		a.sift = h.Last
	}
	if r.resent != nil {
		r.resent.last(a)
	}
	return a
}

// lastShared copies areas of shared memory that no longer change.
func (r *Rounds) lastShared(ctx context.Context, areas []*area) (CopyStats, error) {
	if s := r.State(); s != Idle && s != Converged && s != Final && s != Done {
		return CopyStats{}, fmt.Errorf("rounds are %s: %w", s, ErrState)
	}
	stats, err := r.copier.copy(ctx, areas, Urgent)
	if err != nil {
		return stats, r.fail(err)
	}
	if stats.Sent == 0 {
		return stats, nil // and what came before is behind the flush of its round
	}
	if err := r.config.Session.Flush(ctx); err != nil {
		return stats, r.fail(fmt.Errorf("flush: %w", err))
	}
	return stats, nil
}

// frozenSource reads one space of a FrozenShared.
type frozenSource struct {
	frozen FrozenShared
	space  pagestream.Space
}

func (s frozenSource) read(runs []pagestream.Range, buf []byte) ([]pagestream.Range, error) {
	return nil, s.frozen.Read(s.space, runs, buf)
}

// dumpedSegment is shared memory in CRIU's images.
type dumpedSegment struct {
	space  pagestream.Space
	name   string // of the pages file
	pages  *os.File
	source *imageSource
}

// openDumped opens what CRIU dumped of shared memory.
func openDumped(container uint16, dir string) (found []dumpedSegment, err error) {
	defer func() {
		if err != nil {
			for _, d := range found {
				d.pages.Close()
			}
			found = nil
		}
	}()
	pagemaps, err := images.ListPagemaps(dir)
	if err != nil {
		return nil, err
	}
	for _, l := range pagemaps {
		space := pagestream.Space{Container: container, Kind: pagestream.Shared, ID: l.ID}
		if !l.Shared || space.Valid() != nil {
			continue
		}
		id, entries, err := images.ReadPagemapFile(l.Path)
		if err != nil {
			return found, err
		}
		pages, err := images.Open(images.PagesPath(dir, id))
		if err != nil {
			return found, err
		}
		found = append(found, dumpedSegment{space: space, name: filepath.Base(pages.Name()), pages: pages})
		source, err := newImageSource(pages, entries)
		if err != nil {
			return found, fmt.Errorf("%s: %w", l.Path, err)
		}
		found[len(found)-1].source = source
	}
	return found, nil
}

// imageSource reads the pages that a pagemap lists out of its pages file, in
// which they follow each other.
type imageSource struct {
	pages  io.ReaderAt
	parts  []pagestream.Range // ascending
	offset []int64            // of each part in the file
}

// newImageSource checks that the file has exactly the pages of the pagemap,
// none of them in a parent image.
func newImageSource(pages *os.File, entries []images.Entry) (*imageSource, error) {
	st, err := pages.Stat()
	if err != nil {
		return nil, err
	}
	s := &imageSource{pages: pages}
	var at int64
	for _, e := range entries {
		if !e.Present() {
			return nil, fmt.Errorf("pages %s are not in the image itself: %w", e.Range(), images.ErrFormat)
		}
		s.parts = append(s.parts, e.Range())
		s.offset = append(s.offset, at)
		if at += int64(e.Range().Bytes()); at > st.Size() {
			break
		}
	}
	if st.Size() != at {
		return nil, fmt.Errorf("pages file of %d bytes for %d bytes of pages: %w", st.Size(), at, images.ErrFormat)
	}
	return s, nil
}

func (s *imageSource) ranges() []pagestream.Range { return s.parts }

// read reads runs that each lie in one part: a task cuts parts and joins none.
func (s *imageSource) read(runs []pagestream.Range, buf []byte) ([]pagestream.Range, error) {
	for _, r := range runs {
		i := sort.Search(len(s.parts), func(i int) bool { return s.parts[i].End() > r.Start })
		if i == len(s.parts) || r.Start < s.parts[i].Start || r.End() > s.parts[i].End() {
			return nil, fmt.Errorf("pages %s are not in the image: %w", r, images.ErrFormat)
		}
		at := s.offset[i] + int64(r.Start-s.parts[i].Start)
		if _, err := s.pages.ReadAt(buf[:r.Bytes()], at); err != nil {
			return nil, fmt.Errorf("pages %s of the image: %w", r, err)
		}
		buf = buf[r.Bytes():]
	}
	return nil, nil
}
