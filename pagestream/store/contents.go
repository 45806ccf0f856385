package store

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// AssembleContents makes the pages files of a container of which the source has sent only what contents their pages have (images.Contents),
// and drops the contents. One that has not come makes the error wrap ErrMissing; one that is not what the source
// had, images.ErrFormat. The pod stands still meanwhile.
func (s *Store) AssembleContents(container uint16) error {
	name := pagestream.Space{Container: container, Kind: pagestream.Content}
	if err := s.assemble(name); err != nil {
		return fmt.Errorf("make pages files of %s: %w", name, err)
	}
	return s.DropSpace(name)
}

func (s *Store) assemble(name pagestream.Space) error {
	if err := s.enter("make pages files", open); err != nil {
		return err
	}
	defer s.leave()
	dir := imagesPath(s.dir, name.Container)
	ids, err := images.ListContents(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || len(ids) == 0 {
		return err
	}
	sp, err := s.lookup(name)
	if err != nil {
		return err
	}
	if sp == nil {
		return fmt.Errorf("no content has come: %w", ErrMissing)
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	data, err := mapFile(sp.file, int64(sp.slots)*pagestream.PageSize)
	if err != nil {
		return err
	}
	defer data.close()
	var work errgroup.Group
	work.SetLimit(runtime.GOMAXPROCS(0))
	for _, id := range ids {
		work.Go(func() error { return s.assembleFile(sp, data, dir, id) })
	}
	return work.Wait()
}

// assembleFile makes one pages file. mu of the space is held by whoever waits for it.
func (s *Store) assembleFile(sp *space, data mapping, dir string, id images.PagesID) error {
	c, err := images.ReadContentsFile(images.ContentsPath(dir, id))
	if err != nil {
		return err
	}
	path := images.PagesPath(dir, id)
	if present(path) {
		return fmt.Errorf("%s has come as well: %w", path, images.ErrFormat)
	}
	f, err := os.OpenFile(path+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return s.fileError("make a pages file", err)
	}
	sum, err := sp.write(f, data, c.Numbers)
	if err = errors.Join(err, f.Close()); err != nil {
		return s.fileError("write a pages file", err)
	}
	if sum != c.Sum {
		return fmt.Errorf("%s is not what the source had: checksum %#x instead of %#x: %w", path, sum, c.Sum, images.ErrFormat)
	}
	return errors.Join(os.Rename(path+newSuffix, path), os.Remove(images.ContentsPath(dir, id)))
}

// maxVectors is UIO_MAXIOV, the most that pwritev takes.
const maxVectors = 1024

// zeros is a page of them.
var zeros [pagestream.PageSize]byte

// write writes the contents with these numbers, one after the other, and returns their checksum. Many go with one call: the
// tmpfs then makes large folios for them, see mountTmpfs.
func (sp *space) write(f *os.File, data mapping, numbers []uint32) (sum uint32, err error) {
	vectors := make([][]byte, 0, min(maxVectors, len(numbers)))
	at := int64(0)
	for i, number := range numbers {
		page, err := sp.content(data, number)
		if err != nil {
			return 0, err
		}
		sum = images.ContentsSum(sum, page)
		if vectors = append(vectors, page); len(vectors) < maxVectors && i < len(numbers)-1 {
			continue
		}
		for len(vectors) > 0 {
			n, err := unix.Pwritev(int(f.Fd()), vectors, at)
			if err != nil {
				return 0, err
			}
			at += int64(n)
			vectors = behind(vectors, n)
		}
	}
	return sum, nil
}

// behind is what of vectors is left after n bytes.
func behind(vectors [][]byte, n int) [][]byte {
	for len(vectors) > 0 && n >= len(vectors[0]) {
		n -= len(vectors[0])
		vectors = vectors[1:]
	}
	if n > 0 {
		vectors[0] = vectors[0][n:]
	}
	return vectors
}

// content is the page with this number. mu is held.
func (sp *space) content(data mapping, number uint32) ([]byte, error) {
	c := sp.index.chunks[uint64(number)/chunkPages]
	var e entry
	if c != nil {
		e = c.entries[uint64(number)%chunkPages]
	}
	switch {
	case e.data():
		at := uint64(e.slot()) * pagestream.PageSize
		return data[at : at+pagestream.PageSize], nil
	case e != 0:
		return zeros[:], nil
	}
	return nil, missingError("write pages file", Missing{sp.name, pagestream.Range{Start: uint64(number) * pagestream.PageSize, Pages: 1}})
}
