// Package spool keeps the records of a pod's file trees at its destination until
// the trees exist: as they come over the wire, on disk, in order, a file for each
// tree. What it holds can be applied any number of times, by whichever daemon there
// is then (Replay), or once, while more comes in (Drain).
//
// It leaves to package filetree what a record does, and to its caller which trees
// there are and when they are filled.
package spool

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/filetree"
)

var (
	// ErrChannel is wrapped by the error for records of no tree of the pod.
	ErrChannel = errors.New("no such tree")
	// ErrRoom is wrapped when the disk has too little left.
	ErrRoom = errors.New("not enough room on the disk")
	// ErrDrained is wrapped by the error for records of a tree that was filled.
	ErrDrained = errors.New("its tree is filled already")
	// ErrIncomplete is wrapped when a tree has not been sent to its end.
	ErrIncomplete = errors.New("the tree is not complete")
	// ErrDamaged is wrapped when a spool is not what was written.
	ErrDamaged = errors.New("the spool is damaged")
)

const (
	// maxBatch is the most bytes of records that come, and are kept, as one.
	maxBatch = 16 << 20
	// headerSize is of what stands before each batch: its length and its checksum.
	headerSize = 8
	// reserve is what is left of the disk whatever comes, bytes.
	reserve = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Spool takes records in.
type Spool struct {
	dir      string
	channels map[uint32]*channel // fixed
	// free is what the disk has left, bytes.
	free func(dir string) (uint64, error)

	mu      sync.Mutex
	written uint64 // bytes of all channels, guarded by mu
}

// channel is the file of one tree.
type channel struct {
	mu       sync.Mutex
	file     *os.File // guarded by mu
	size     int64    // of the file, bytes; guarded by mu
	written  uint64   // of that, records, bytes; guarded by mu
	complete bool     // the last record ended a sync of the frozen pod; guarded by mu
	drained  bool     // its tree takes what comes; guarded by mu
}

// Create makes a spool for the trees of those channels in a directory that must not
// exist yet.
func Create(dir string, channels []uint32) (*Spool, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("spool of files: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool of files: %w", err)
	}
	s := &Spool{dir: dir, channels: make(map[uint32]*channel, len(channels)), free: freeOn}
	for _, n := range channels {
		f, err := os.OpenFile(path(dir, n), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("spool of files: %w", err), s.Close())
		}
		s.channels[n] = &channel{file: f}
	}
	return s, nil
}

func path(dir string, channel uint32) string {
	return filepath.Join(dir, strconv.FormatUint(uint64(channel), 10))
}

// freeOn is what the disk below dir has left for its owner, bytes.
func freeOn(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("room on the disk of %s: %w", dir, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// Has says whether the spool is for that channel too.
func (s *Spool) Has(number uint32) bool { return s.channels[number] != nil }

// Append checks records, and keeps them. They are whole records of one tree; those
// of one tree come in order. An error, once, makes the spool useless; one that wraps
// ErrDrained only says that they are the tree's to take.
func (s *Spool) Append(number uint32, records []byte) error {
	c := s.channels[number]
	if c == nil {
		return fmt.Errorf("channel %d: %w", number, ErrChannel)
	}
	if len(records) > maxBatch {
		return fmt.Errorf("channel %d: %d bytes of records at once, want at most %d: %w", number, len(records), maxBatch, filetree.ErrRecord)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drained {
		return fmt.Errorf("channel %d: %w", number, ErrDrained)
	}
	complete := c.complete
	for rest := records; len(rest) > 0; {
		r, n, err := filetree.DecodeRecord(rest)
		if err != nil {
			return fmt.Errorf("channel %d: %w", number, err)
		}
		complete, rest = r.Type == filetree.TypeEnd && r.Frozen, rest[n:]
	}
	if err := s.take(uint64(len(records))); err != nil {
		return err
	}
	if c.file == nil {
		return fmt.Errorf("channel %d: %w", number, fs.ErrClosed)
	}
	header := make([]byte, headerSize)
	binary.LittleEndian.PutUint32(header, uint32(len(records)))
	binary.LittleEndian.PutUint32(header[4:], crc32.Checksum(records, castagnoli))
	if _, err := c.file.Write(header); err != nil {
		return fmt.Errorf("spool of files: %w", err)
	}
	if _, err := c.file.Write(records); err != nil {
		return fmt.Errorf("spool of files: %w", err)
	}
	c.size += headerSize + int64(len(records))
	c.written += uint64(len(records))
	c.complete = complete
	return nil
}

// take accounts for bytes that are about to be written, if the disk has them, and as
// much again as all of them: the trees will take it, and there is no way back then.
func (s *Spool) take(bytes uint64) error {
	free, err := s.free(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if need := s.written + 2*bytes + reserve; free < need {
		return fmt.Errorf("spool of files: %w: %s has %d MiB left, and %d MiB are needed for what has come so far: make room there",
			ErrRoom, s.dir, free>>20, need>>20)
	}
	s.written += bytes
	return nil
}

// Complete says whether the trees of the channels named, and every other of which
// anything came, were sent up to the end of the frozen pod's sync.
func (s *Spool) Complete(required ...uint32) error {
	for _, n := range sorted(s.channels) {
		c := s.channels[n]
		c.mu.Lock()
		complete, size := c.complete, int64(0)
		if info, err := os.Stat(path(s.dir, n)); err == nil {
			size = info.Size()
		}
		c.mu.Unlock()
		if !complete && (size > 0 || slices.Contains(required, n)) {
			return fmt.Errorf("channel %d: %w", n, ErrIncomplete)
		}
	}
	return nil
}

// Close lets go of the files, which stay. What is still to come fails.
func (s *Spool) Close() error {
	var err error
	for _, c := range s.channels {
		c.mu.Lock()
		if c.file != nil {
			err = errors.Join(err, c.file.Close())
			c.file = nil
		}
		c.mu.Unlock()
	}
	return err
}

// Replay hands over everything that the spool in dir has, a tree after the other,
// each in order. Records are valid during the call only.
func Replay(dir string, apply func(channel uint32, records []byte) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("spool of files: %w", err)
	}
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			return fmt.Errorf("%w: %s", ErrDamaged, filepath.Join(dir, e.Name()))
		}
		if err := replay(filepath.Join(dir, e.Name()), func(b []byte) error { return apply(uint32(n), b) }); err != nil {
			return err
		}
	}
	return nil
}

func replay(file string, apply func([]byte) error) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("spool of files: %w", err)
	}
	defer f.Close()
	return readAll(f, file, apply)
}

// readAll hands over the batches of a part of a file.
func readAll(part io.Reader, file string, apply func([]byte) error) error {
	in := bufio.NewReaderSize(part, 1<<20)
	var batch []byte
	for {
		var err error
		if batch, err = next(in, batch); errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := apply(batch); err != nil {
			return err
		}
	}
}

// next reads a batch into buffer, or another if that is too small; io.EOF is the
// end.
func next(in io.Reader, buffer []byte) ([]byte, error) {
	var header [headerSize]byte
	switch _, err := io.ReadFull(in, header[:]); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: it ends in the middle", ErrDamaged)
	case err != nil:
		return nil, err
	}
	length := binary.LittleEndian.Uint32(header[:])
	if length > maxBatch {
		return nil, fmt.Errorf("%w: a batch of %d bytes", ErrDamaged, length)
	}
	buffer = slices.Grow(buffer[:0], int(length))[:length]
	if _, err := io.ReadFull(in, buffer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if crc32.Checksum(buffer, castagnoli) != binary.LittleEndian.Uint32(header[4:]) {
		return nil, fmt.Errorf("%w: a checksum differs", ErrDamaged)
	}
	return buffer, nil
}

func sorted(channels map[uint32]*channel) []uint32 {
	out := make([]uint32, 0, len(channels))
	for n := range channels {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
