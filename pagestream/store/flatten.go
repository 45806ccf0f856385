package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"golang.org/x/sys/unix"
)

// Flatten rewrites the images of a container so that they hold all pages by
// themselves, as an eager restore wants them: each pagemap's entries are present
// and neither lazy nor in a parent, its pages file holds them in order, and no
// link leads to a parent. Pages that the images do not hold come from the store;
// one that is not there makes the error wrap ErrMissing, and images already
// rewritten are as good as those not yet.
//
// Pages are then held twice. With consume the store gives up each page that it
// has written, and can afterwards serve no lazy restore, not even after an error.
func (s *Store) Flatten(container uint16, consume bool) error {
	if err := s.enter("flatten images", open, sealed); err != nil {
		return err
	}
	defer s.leave()
	dir := imagesPath(s.dir, container)
	maps, err := images.ListPagemaps(dir)
	if err != nil {
		return fmt.Errorf("flatten images of container %d: %w", container, err)
	}
	for _, l := range maps {
		id, entries, err := images.ReadPagemapFile(l.Path)
		if err != nil {
			return err
		}
		name := pagestream.Space{Container: container, Kind: pagestream.Process, ID: l.ID}
		if l.Shared {
			name.Kind = pagestream.Shared
		}
		if flat(entries) && present(images.PagesPath(dir, id)) {
			continue
		}
		if err := s.writeLayer(name, dir, l.Path, id, entries, consume); err != nil {
			return fmt.Errorf("flatten %s: %w", name, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "parent")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("flatten images of container %d: %w", container, err)
	}
	return nil
}

// flat says that all pages are in the pages file already.
func flat(entries []images.Entry) bool {
	for _, e := range entries {
		if e.Flags != images.Present {
			return false
		}
	}
	return true
}

func present(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeLayer writes a pages file that holds all pages of the entries in their
// order, and a pagemap that says so, in the place of the old ones: present pages
// come from the old pages file, the rest from the space.
//
// The pages file takes its place first. If the other rename does not follow, the
// old pagemap counts offsets by present entries and reads other pages: images
// after an error are not to be restored, which their caller sees to.
func (s *Store) writeLayer(name pagestream.Space, dir, pagemap string, id images.PagesID, entries []images.Entry, consume bool) error {
	if err := name.Valid(); err != nil {
		return err
	}
	sp, err := s.lookup(name)
	if err != nil {
		return err
	}
	path := images.PagesPath(dir, id)
	l := layer{store: s, name: name, space: sp, consume: consume}
	defer l.close()
	if err := l.open(path); err != nil {
		return err
	}
	if err := l.presize(entries); err != nil {
		return err
	}
	out := make([]images.Entry, len(entries))
	for i, e := range entries {
		if err := l.add(e); err != nil {
			return err
		}
		out[i] = images.Entry{Vaddr: e.Vaddr, Pages: e.Pages, Flags: images.Present}
	}
	// Zeros at the end have not been written.
	if err := l.out.Truncate(l.at); err != nil {
		return s.fileError("set the size of a pages file", err)
	}
	if err := writeFile(pagemap+newSuffix, func(w io.Writer) error { return images.WritePagemap(w, id, out) }); err != nil {
		return s.fileError("write pagemap", err)
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return err
	}
	return os.Rename(pagemap+newSuffix, pagemap)
}

const newSuffix = ".new"

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// layer is a pages file being written.
type layer struct {
	store   *Store
	name    pagestream.Space
	space   *space   // nil if the store has none
	old     *os.File // nil if there is none
	oldAt   int64    // offset behind the present entries so far
	mapped  mapping  // the space's data file
	out     *os.File
	at      int64
	consume bool
}

func (l *layer) open(path string) (err error) {
	if present(path) {
		if l.old, err = images.Open(path); err != nil {
			return err
		}
	}
	if l.space != nil {
		l.space.mu.Lock()
		size := int64(l.space.slots) * pagestream.PageSize
		l.space.mu.Unlock()
		if l.mapped, err = mapFile(l.space.file, size); err != nil {
			return err
		}
	}
	l.out, err = os.OpenFile(path+newSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	return err
}

// presize sets the size of the pages file to what the entries say, as far as
// that can be true.
func (l *layer) presize(entries []images.Entry) error {
	var size uint64
	for _, e := range entries {
		if size += e.Range().Bytes(); size > uint64(l.store.limit) {
			return nil
		}
	}
	if err := l.out.Truncate(int64(size)); err != nil {
		return l.store.fileError("set the size of a pages file", err)
	}
	return nil
}

func (l *layer) close() {
	l.mapped.close()
	for _, f := range []*os.File{l.old, l.out} {
		if f != nil {
			f.Close()
		}
	}
}

// add writes the pages of the next entry.
func (l *layer) add(e images.Entry) error {
	if e.Present() {
		return l.copyOld(int64(e.Range().Bytes()))
	}
	if l.space == nil {
		return missingError("write pages file", Missing{l.name, e.Range()})
	}
	l.space.mu.Lock()
	defer l.space.mu.Unlock()
	return l.space.index.within(pageOf(e.Vaddr), e.Pages, func(r run) error {
		n := int64(r.pages * pagestream.PageSize)
		switch {
		case r.zero:
			l.at += n // a hole reads as zero
			return nil
		case r.slot == absentSlot:
			at := pagestream.Range{Start: r.page * pagestream.PageSize, Pages: r.pages}
			return missingError("write pages file", Missing{l.name, at})
		}
		return l.copyStored(int64(r.slot)*pagestream.PageSize, n)
	})
}

// consumeStep is how much is held twice by a layer that consumes its space.
const consumeStep = 8 << 20

func (l *layer) copyStored(from, n int64) error {
	for n > 0 {
		k := min(n, consumeStep)
		if _, err := l.out.WriteAt(l.mapped[from:from+k], l.at); err != nil {
			return l.store.fileError("write pages file", err)
		}
		if l.consume {
			const how = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
			if err := unix.Fallocate(int(l.space.file.Fd()), how, from, k); err != nil {
				return fmt.Errorf("give up stored pages: %w", err)
			}
		}
		from, n, l.at = from+k, n-k, l.at+k
	}
	return nil
}

func (l *layer) copyOld(n int64) error {
	if l.old == nil {
		return fmt.Errorf("pagemap of %s lists present pages, but there is no pages file: %w", l.name, images.ErrFormat)
	}
	_, err := io.Copy(io.NewOffsetWriter(l.out, l.at), io.NewSectionReader(l.old, l.oldAt, n))
	if err != nil {
		return l.store.fileError("copy pages file", err)
	}
	st, err := l.old.Stat()
	if err != nil {
		return err
	}
	if st.Size() < l.oldAt+n {
		return fmt.Errorf("pages file of %s has %d bytes, its pagemap needs %d: %w", l.name, st.Size(), l.oldAt+n, images.ErrFormat)
	}
	l.oldAt += n
	l.at += n
	return nil
}
