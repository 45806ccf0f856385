package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"godwit.dev/godwit/pagestream"
)

// The index file of a space, little endian: a header of 64 bytes
//
//	0  magic        8 bytes
//	8  version      u32
//	12 container    u16
//	14 kind         u8, then a zero byte
//	16 id           u64
//	24 entries      u64
//	32 pages        u64, in the data file
//	40 zero         16 bytes
//	56 crc          u32, CRC-32C of the entries
//	60 crc          u32, CRC-32C of the header up to here
//
// then for each run of pages, ascending: vaddr u64, pages u32, slot u32 (the
// place in the data file in pages, or zeroSlot).
const (
	indexMagic   = "GODWITIX"
	indexVersion = 1
	headerSize   = 64
	runSize      = 16
	zeroSlot     = ^uint32(0)
)

// ErrIndex is wrapped by every error about the bytes of an index file.
var ErrIndex = errors.New("bad index of a store")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// indexHeader is what an index file says before its runs.
type indexHeader struct {
	space   pagestream.Space
	entries uint64
	pages   uint64 // in the data file
	crc     uint32 // of the runs
}

func (h indexHeader) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, indexMagic)
	binary.LittleEndian.PutUint32(b[8:], indexVersion)
	binary.LittleEndian.PutUint16(b[12:], h.space.Container)
	b[14] = byte(h.space.Kind)
	binary.LittleEndian.PutUint64(b[16:], h.space.ID)
	binary.LittleEndian.PutUint64(b[24:], h.entries)
	binary.LittleEndian.PutUint64(b[32:], h.pages)
	binary.LittleEndian.PutUint32(b[56:], h.crc)
	binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// sealedRun is a run as an index file has it.
type sealedRun struct {
	vaddr uint64
	pages uint32
	slot  uint32
}

func (r sealedRun) end() uint64 { return r.vaddr + uint64(r.pages)*pagestream.PageSize }

func appendRun(b []byte, r sealedRun) []byte {
	b = binary.LittleEndian.AppendUint64(b, r.vaddr)
	b = binary.LittleEndian.AppendUint32(b, r.pages)
	return binary.LittleEndian.AppendUint32(b, r.slot)
}

// decodeIndex reads a whole index file. Its runs ascend, do not overlap, are
// neither empty nor over the highest address, and lie within the data file.
func decodeIndex(b []byte) (indexHeader, []sealedRun, error) {
	var h indexHeader
	bad := func(format string, args ...any) (indexHeader, []sealedRun, error) {
		return indexHeader{}, nil, fmt.Errorf(format+": %w", append(args, ErrIndex)...)
	}
	if len(b) < headerSize || string(b[:8]) != indexMagic {
		return bad("not an index file")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != indexVersion {
		return bad("version %d, this program reads %d", v, indexVersion)
	}
	if crc32.Checksum(b[:60], castagnoli) != binary.LittleEndian.Uint32(b[60:]) {
		return bad("checksum of the header differs")
	}
	h.space = pagestream.Space{
		Container: binary.LittleEndian.Uint16(b[12:]),
		Kind:      pagestream.SpaceKind(b[14]),
		ID:        binary.LittleEndian.Uint64(b[16:]),
	}
	h.entries = binary.LittleEndian.Uint64(b[24:])
	h.pages = binary.LittleEndian.Uint64(b[32:])
	h.crc = binary.LittleEndian.Uint32(b[56:])
	body := b[headerSize:]
	switch {
	case h.space.Valid() != nil:
		return bad("space %s", h.space)
	case h.pages > uint64(maxSlots):
		return bad("%d pages in the data file", h.pages)
	case h.entries > uint64(len(body))/runSize || h.entries*runSize != uint64(len(body)):
		return bad("%d runs in %d bytes", h.entries, len(body))
	case crc32.Checksum(body, castagnoli) != h.crc:
		return bad("checksum of the runs differs")
	}
	runs := make([]sealedRun, h.entries)
	end := uint64(0)
	for i := range runs {
		e := body[i*runSize:]
		r := sealedRun{binary.LittleEndian.Uint64(e), binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])}
		switch at := (pagestream.Range{Start: r.vaddr, Pages: uint64(r.pages)}); {
		case at.Valid() != nil:
			return bad("run %d: %d pages at %#x", i, r.pages, r.vaddr)
		case r.vaddr < end:
			return bad("run %d at %#x begins before the end %#x of the one before", i, r.vaddr, end)
		case r.slot != zeroSlot && uint64(r.slot)+uint64(r.pages) > h.pages:
			return bad("run %d at %#x ends behind the data file's %d pages", i, r.vaddr, h.pages)
		}
		runs[i], end = r, r.end()
	}
	return h, runs, nil
}

const indexSuffix = ".index"

func indexPath(dir string, name pagestream.Space) string {
	return filepath.Join(dir, pagesDir, fileName(name)+indexSuffix)
}

// sealPath is the file whose being there says that a store is sealed. It holds
// the number of spaces.
func sealPath(dir string) string { return filepath.Join(dir, "sealed") }

// Settle looks up where the pages lie that have come so far. Seal, which does so as well, and for which a pod stands still, then
// has to look only at what is new.
func (s *Store) Settle() error {
	if err := s.enter("settle", open); err != nil {
		return err
	}
	defer s.leave()
	s.spacesMu.Lock()
	spaces := slices.Collect(maps.Values(s.spaces))
	s.spacesMu.Unlock()
	for _, sp := range spaces {
		sp.settle()
	}
	return nil
}

// settleChunks is how many chunks are looked at between two moments in which pages are taken.
const settleChunks = 256

func (sp *space) settle() {
	sp.mu.Lock()
	keys := sp.index.keys()
	sp.mu.Unlock()
	var parts [chunkPages]part
	for some := range slices.Chunk(keys, settleChunks) {
		sp.mu.Lock()
		for _, k := range some {
			if c := sp.index.chunks[k]; c != nil {
				c.look(parts[:0])
			}
		}
		sp.mu.Unlock()
	}
}

// Seal writes the index of each space for another process to read. It waits for
// calls under way; after it no page is taken. A second Seal does nothing.
func (s *Store) Seal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case sealed:
		return nil
	case closed:
		return fmt.Errorf("seal: store %s is closed: %w", s.dir, ErrState)
	}
	s.spacesMu.Lock()
	defer s.spacesMu.Unlock()
	if s.broken != nil {
		return fmt.Errorf("seal: %w", s.broken)
	}
	for _, sp := range s.spaces {
		if err := sp.seal(); err != nil {
			return fmt.Errorf("seal space %s: %w", sp.name, err)
		}
	}
	err := writeFile(sealPath(s.dir)+newSuffix, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d\n", len(s.spaces))
		return err
	})
	if err == nil {
		err = os.Rename(sealPath(s.dir)+newSuffix, sealPath(s.dir))
	}
	if err != nil {
		return s.fileError("seal", err)
	}
	s.state = sealed
	return nil
}

func (sp *space) seal() error {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	size := int64(sp.slots) * pagestream.PageSize
	if err := sp.file.Truncate(size); err != nil {
		return err
	}
	body := sp.sealedRuns()
	h := indexHeader{
		space:   sp.name,
		entries: uint64(len(body) / runSize),
		pages:   uint64(sp.slots),
		crc:     crc32.Checksum(body, castagnoli),
	}
	err := writeFile(indexPath(sp.store.dir, sp.name), func(w io.Writer) error {
		if _, err := w.Write(h.encode()); err != nil {
			return err
		}
		_, err := w.Write(body)
		return err
	})
	if err != nil {
		return sp.store.fileError("write index", err)
	}
	return errors.Join(sp.sealLeft(), sp.sealRecent())
}

// sealedRuns encodes the runs of the space. One of zeros may be longer than an
// entry can say.
func (sp *space) sealedRuns() []byte {
	const most = 1<<32 - 1
	var body []byte
	sp.index.runs(func(r run) error {
		if r.zero {
			r.slot = zeroSlot
		}
		for r.pages > 0 {
			n := min(r.pages, most)
			body = appendRun(body, sealedRun{r.page * pagestream.PageSize, uint32(n), r.slot})
			r.page, r.pages = r.page+n, r.pages-n
		}
		return nil
	})
	return body
}
