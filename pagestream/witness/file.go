package witness

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// A Dump's file, little endian: magic 8 bytes, spaces u32, CRC-32C u32 of what follows. Then for each space: kind u8, id
// u64, runs u32, exempt parts u32; runs of start u64, pages u64; parts of address u64, size u64; 16 bytes for each page.
const (
	magic     = "GODWITWN"
	headSize  = 16
	spaceSize = 17
	pairSize  = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Save writes the Dump among a container's images.
func (d *Dump) Save(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, FileName), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = errors.Join(d.write(f), f.Close())
	}
	if err != nil {
		return fmt.Errorf("list what CRIU has dumped: %w", err)
	}
	return nil
}

func (d *Dump) write(w io.WriterAt) error {
	sum := crc32.New(castagnoli)
	b := bufio.NewWriterSize(io.MultiWriter(io.NewOffsetWriter(w, headSize), sum), 256<<10)
	var scratch []byte
	for _, name := range d.names() {
		sp := d.spaces[name]
		scratch = append(scratch[:0], byte(name.Kind))
		scratch = binary.LittleEndian.AppendUint64(scratch, name.ID)
		scratch = binary.LittleEndian.AppendUint32(scratch, uint32(len(sp.runs)))
		scratch = binary.LittleEndian.AppendUint32(scratch, uint32(len(sp.exempt)))
		for _, r := range sp.runs {
			scratch = appendPair(scratch, r.Start, r.Pages)
		}
		for _, part := range sp.exempt {
			scratch = appendPair(scratch, part.Addr, part.Size)
		}
		if _, err := b.Write(scratch); err != nil {
			return err
		}
		for _, h := range sp.hashes {
			if _, err := b.Write(appendPair(scratch[:0], h.Lo, h.Hi)); err != nil {
				return err
			}
		}
	}
	if err := b.Flush(); err != nil {
		return err
	}
	head := binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(d.spaces)))
	_, err := w.WriteAt(binary.LittleEndian.AppendUint32(head, sum.Sum32()), 0)
	return err
}

func appendPair(b []byte, first, second uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, first), second)
}

// Load reads the Dump among a container's images. Errors about its bytes wrap ErrFormat, that of a directory without one
// os.ErrNotExist.
func Load(dir string) (*Dump, error) {
	f, err := images.Open(filepath.Join(dir, FileName))
	if err != nil {
		return nil, fmt.Errorf("what CRIU has dumped: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("what CRIU has dumped: %w", err)
	}
	return decode(raw)
}

// decode reads the bytes of a file. Nothing is made that is larger than they are.
func decode(raw []byte) (*Dump, error) {
	if len(raw) < headSize || string(raw[:8]) != magic {
		return nil, fmt.Errorf("it does not begin as one: %w", ErrFormat)
	}
	spaces, body := binary.LittleEndian.Uint32(raw[8:]), raw[headSize:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(raw[12:]) {
		return nil, fmt.Errorf("its checksum differs: %w", ErrFormat)
	}
	d := &Dump{spaces: make(map[Name]*space)}
	for range spaces {
		name, sp, rest, err := decodeSpace(body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, ErrFormat)
		}
		if d.spaces[name] != nil {
			return nil, fmt.Errorf("%s %d is there twice: %w", name.Kind, name.ID, ErrFormat)
		}
		d.spaces[name], body = sp, rest
	}
	if len(body) > 0 {
		return nil, fmt.Errorf("%d bytes too many: %w", len(body), ErrFormat)
	}
	return d, nil
}

var errShort = errors.New("it is cut short")

func decodeSpace(b []byte) (Name, *space, []byte, error) {
	if len(b) < spaceSize {
		return Name{}, nil, nil, errShort
	}
	name := Name{pagestream.SpaceKind(b[0]), binary.LittleEndian.Uint64(b[1:])}
	if err := name.of(0).Valid(); err != nil {
		return name, nil, nil, err
	}
	runs, parts := uint64(binary.LittleEndian.Uint32(b[9:])), uint64(binary.LittleEndian.Uint32(b[13:]))
	b = b[spaceSize:]
	if uint64(len(b)) < (runs+parts)*pairSize {
		return name, nil, nil, errShort
	}
	sp := &space{runs: make([]pagestream.Range, runs), exempt: make([]images.Sequence, parts)}
	var pages, end uint64
	for i := range sp.runs {
		r := pagestream.Range{Start: binary.LittleEndian.Uint64(b), Pages: binary.LittleEndian.Uint64(b[8:])}
		if err := r.Valid(); err != nil {
			return name, nil, nil, err
		}
		if r.Start < end {
			return name, nil, nil, fmt.Errorf("run at %#x of %s %d begins before the end of the one before", r.Start, name.Kind, name.ID)
		}
		sp.runs[i], end = r, r.End()
		pages, b = pages+r.Pages, b[pairSize:] // no overflow: below MaxAddress in all
	}
	for i := range sp.exempt {
		sp.exempt[i] = images.Sequence{Addr: binary.LittleEndian.Uint64(b), Size: binary.LittleEndian.Uint64(b[8:])}
		if s := sp.exempt[i]; s.Addr >= pagestream.MaxAddress || s.Size > pagestream.PageSize {
			return name, nil, nil, fmt.Errorf("%d exempt bytes at %#x", s.Size, s.Addr)
		}
		b = b[pairSize:]
	}
	if uint64(len(b))/hashSize < pages {
		return name, nil, nil, errShort
	}
	sp.hashes = make([]hash, pages)
	for i := range sp.hashes {
		sp.hashes[i] = xxh3.Uint128{Lo: binary.LittleEndian.Uint64(b), Hi: binary.LittleEndian.Uint64(b[8:])}
		b = b[hashSize:]
	}
	return name, sp, b, nil
}
