package tmpfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"godwit.dev/godwit/filetree"
)

// What a mount holds is written down twice: while the container runs, and again, as what has changed since, when it is frozen, which
// is mostly nothing. Pieces of both are packed, several mounts of a container together: the number of a mount in its list, two
// bytes, the length of the piece, four, and records of package filetree, as Target.Apply takes them.

const (
	// MaxAhead bounds what Ahead writes down of all mounts of a container, bytes.
	MaxAhead = 64 << 10
	// pieceHead comes before the records of a piece.
	pieceHead = 2 + 4
)

// ErrTooMuch is wrapped by Ahead's error for a mount that holds more than is sent ahead.
var ErrTooMuch = errors.New("it holds too much to be sent ahead")

// Ahead packs what the mount holds now, as the index-th of its list, if that takes no more than limit bytes. What changes meanwhile, and from then
// on, Changes tells.
func (s *Source) Ahead(ctx context.Context, index, limit int) ([]byte, error) {
	files, err := filetree.NewSource(descriptorPath(s.tree), filetree.Plain, filetree.Options{})
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", s.Path, err)
	}
	s.files = files
	to := &bounded{limit: limit}
	p := packer{to: to, index: index}
	if _, err = files.Sync(ctx, p.add); err == nil {
		err = p.flush()
	}
	if err != nil {
		s.forget()
		return nil, fmt.Errorf("what mount %s holds: %w", s.Path, err)
	}
	return to.Bytes(), nil
}

// IsAhead says whether what the mount holds was written down by Ahead.
func (s *Source) IsAhead() bool { return s.files != nil }

// forget has nothing be ahead.
func (s *Source) forget() {
	if s.files != nil {
		s.files.Close()
		s.files = nil
	}
}

// Changes packs what has changed in the mount since Ahead, or Changes, to the end of a file. Nobody may change the mount meanwhile.
func (s *Source) Changes(ctx context.Context, index int, to io.Writer) error {
	p := packer{to: to, index: index}
	_, err := s.files.SyncFrozen(ctx, filetree.Mapped{}, p.add)
	if err == nil {
		err = p.flush()
	}
	if err != nil {
		return fmt.Errorf("what has changed in mount %s: %w", s.Path, err)
	}
	return nil
}

// TakeOver has mounts that were opened once more be those of which something is ahead. Both are of the same list, and while the latter
// are open no other file system has their number.
func TakeOver(again, ahead []*Source) {
	for i, s := range ahead {
		if s == nil || i >= len(again) || again[i] == nil || !s.IsAhead() {
			continue
		}
		again[i], ahead[i] = s, again[i]
	}
	Close(ahead)
}

// bounded is a buffer that does not take more than it may.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooMuch, b.limit)
	}
	return b.Buffer.Write(p)
}

// packer writes records of a mount in pieces.
type packer struct {
	to     io.Writer
	index  int
	buffer []byte
}

func (p *packer) add(r filetree.Record) (err error) {
	if p.buffer == nil {
		p.buffer = make([]byte, pieceHead, 1<<10)
	}
	if p.buffer, err = filetree.AppendRecord(p.buffer, r); err != nil || len(p.buffer) < saveBatch {
		return err
	}
	return p.flush()
}

func (p *packer) flush() error {
	if len(p.buffer) <= pieceHead {
		return nil
	}
	binary.LittleEndian.PutUint16(p.buffer, uint16(p.index))
	binary.LittleEndian.PutUint32(p.buffer[2:], uint32(len(p.buffer)-pieceHead))
	_, err := p.to.Write(p.buffer)
	p.buffer = p.buffer[:pieceHead]
	return err
}

// Unpack calls each for every piece, in order, and says which mounts there are pieces of. What is packed is a peer's.
func Unpack(packed []byte, each func(index int, records []byte) error) (of [MaxMounts]bool, err error) {
	for len(packed) > 0 {
		if len(packed) < pieceHead {
			return of, fmt.Errorf("%w: %d bytes are left of it", ErrMalformed, len(packed))
		}
		index, length := int(binary.LittleEndian.Uint16(packed)), uint64(binary.LittleEndian.Uint32(packed[2:]))
		packed = packed[pieceHead:]
		if index >= MaxMounts || length > uint64(len(packed)) {
			return of, fmt.Errorf("%w: %d bytes of mount %d, with %d left", ErrMalformed, length, index, len(packed))
		}
		if err := each(index, packed[:length]); err != nil {
			return of, err
		}
		of[index], packed = true, packed[length:]
	}
	return of, nil
}

// FillAll makes in mounts what a peer has packed, and says of which there was something.
func FillAll(targets []*Target, packed []byte) (of [MaxMounts]bool, err error) {
	return Unpack(packed, func(i int, records []byte) error {
		if i >= len(targets) {
			return fmt.Errorf("%w: something is in mount %d of %d", ErrMalformed, i, len(targets))
		}
		return targets[i].Apply(records)
	})
}

// ChangeAll is FillAll from a file that Source.Changes has written, after which those mounts hold all that they are to hold. Without such a
// file nothing is of any.
func ChangeAll(targets []*Target, file string) (of [MaxMounts]bool, err error) {
	in, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return of, nil
	}
	if err != nil {
		return of, fmt.Errorf("changes of mounts: %w", err)
	}
	defer in.Close()
	packed, unmap, err := mapped(in)
	if err != nil {
		return of, fmt.Errorf("changes of mounts: %w", err)
	}
	defer unmap()
	if of, err = FillAll(targets, packed); err != nil {
		return of, err
	}
	for i, t := range targets {
		if of[i] {
			err = errors.Join(err, t.Finish())
		}
	}
	return of, err
}
