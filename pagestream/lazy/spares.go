package lazy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// spareJournals is for how many processes a journal is made before they come. Further ones have theirs made as they do.
const spareJournals = 4

// spares are journals of nobody yet, mapped and with room for a snapshot of one page: to make one takes the time of several
// pages and system calls, and a process comes while its pod stands still. One that a server which died has left is made again.
type spares struct {
	dir  string
	left []spare
}

type spare struct {
	path  string
	whole []byte
}

// make makes them. It is called once.
func (s *spares) make(dir string) error {
	s.dir = dir
	for i := range spareJournals {
		path := filepath.Join(dir, "spare-"+strconv.Itoa(i))
		if err := writeNew(path, make([]byte, pageSize+slotsSize)); err != nil {
			return fmt.Errorf("make a journal ahead: %w", err)
		}
		b, err := mapJournal(path, 0, pageSize+slotsSize)
		if err != nil {
			return errors.Join(err, os.Remove(path))
		}
		s.left = append(s.left, spare{path, b})
	}
	return nil
}

// take is newJournal with one of them; nil if there is none that fits.
func (s *spares) take(dir string, snap snapshot, server uint64) (*journal, error) {
	if len(s.left) == 0 || s.dir != dir || snap.size() != pageSize {
		return nil, nil
	}
	x := s.left[len(s.left)-1]
	s.left = s.left[:len(s.left)-1]
	snap.put(x.whole)
	mark(x.whole[pageSize:], server)
	j := &journal{path: journalPath(dir, snap.id), whole: x.whole, mapped: x.whole[pageSize:], next: 1}
	if err := os.Rename(x.path, j.path); err != nil {
		return nil, errors.Join(fmt.Errorf("write journal: %w", err), j.close())
	}
	return j, nil
}

// drop gives them up.
func (s *spares) drop() {
	for _, x := range s.left {
		_ = unix.Munmap(x.whole)
		_ = os.Remove(x.path)
	}
	s.left = nil
}
