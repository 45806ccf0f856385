package images

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// Sequence is where a thread has its area of restartable sequences (rseq(2)), bytes: memory
// that the kernel writes whenever the thread runs on another processor than before, also if
// nothing runs in it but CRIU's parasite.
type Sequence struct{ Addr, Size uint64 }

const (
	// maxSequence is well over what any kernel's struct rseq has, which may grow (kernel:
	// include/uapi/linux/rseq.h).
	maxSequence = 4096
	// maxCoreRecord: registers, with the widest vector state that there is, and some lists.
	maxCoreRecord = 16 << 20
	// maxTreeRecord is enough for more threads than a pid namespace can have.
	maxTreeRecord = 64 << 20
)

// ReadSequences says where the threads of each process in a directory of images have their
// areas of restartable sequences, by the pid in the container. A CRIU that notes none, and a
// thread without one, have none here. Errors about the bytes wrap ErrFormat.
//
// A process that has ended has no memory. Its thread has any number: CRIU asks its parasite in a process for its
// pid there, and leaves unset what nobody tells (criu/seize.c, collect_threads; criu/cr-dump.c, dump_zombies). (With
// MALLOC_PERTURB_ the number was what that fills memory with.)
func ReadSequences(dir string) (map[uint64][]Sequence, error) {
	threads, err := readThreads(filepath.Join(dir, "pstree.img"))
	if err != nil {
		return nil, err
	}
	found := make(map[uint64][]Sequence)
	for pid, tids := range threads {
		if _, err := os.Lstat(MMPath(dir, pid)); errors.Is(err, os.ErrNotExist) {
			continue
		}
		for _, tid := range tids {
			s, err := readSequence(filepath.Join(dir, "core-"+strconv.FormatUint(tid, 10)+".img"))
			if err != nil {
				return nil, err
			}
			if s.Size > 0 {
				found[pid] = append(found[pid], s)
			}
		}
	}
	return found, nil
}

// readThreads lists the threads of each process (images/pstree.proto).
func readThreads(path string) (map[uint64][]uint64, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rs, err := newRecords(f, magicTree, maxTreeRecord)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	threads := make(map[uint64][]uint64)
	for {
		msg, err := rs.read()
		if errors.Is(err, io.EOF) {
			return threads, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		var pid uint64
		var tids []uint64
		err = fields(msg, func(num protowire.Number, v uint64, _ []byte) error {
			switch num {
			case 1:
				pid = v
			case 5:
				tids = append(tids, v)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, rs.bad("%v", err))
		}
		threads[pid] = tids
	}
}

// readSequence reads core_entry.thread_core.rseq_entry of a thread's image (images/criu-core.proto, images/rseq.proto).
func readSequence(path string) (Sequence, error) {
	f, err := Open(path)
	if err != nil {
		return Sequence{}, err
	}
	defer f.Close()
	rs, err := newRecords(f, magicCore, maxCoreRecord)
	if err != nil {
		return Sequence{}, fmt.Errorf("%s: %w", path, err)
	}
	msg, err := rs.read()
	if errors.Is(err, io.EOF) {
		err = rs.bad("no record")
	}
	if err != nil {
		return Sequence{}, fmt.Errorf("%s: %w", path, err)
	}
	var s Sequence
	err = within(msg, 5, func(thread []byte) error {
		return within(thread, 15, func(entry []byte) error {
			s, err = decodeSequence(entry)
			return err
		})
	})
	if err != nil {
		return Sequence{}, fmt.Errorf("%s: %w", path, rs.bad("%v", err))
	}
	return s, nil
}

// within calls f for each message in a field of another.
func within(msg []byte, field protowire.Number, f func([]byte) error) error {
	return fields(msg, func(num protowire.Number, _ uint64, b []byte) error {
		if num != field {
			return nil
		}
		return f(b)
	})
}

func decodeSequence(entry []byte) (Sequence, error) {
	var s Sequence
	err := fields(entry, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			s.Addr = v
		case 2:
			s.Size = v
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	if s.Size > maxSequence || s.Addr > math.MaxUint64-s.Size {
		return s, fmt.Errorf("an area of restartable sequences of %d bytes at %#x", s.Size, s.Addr)
	}
	return s, nil
}
