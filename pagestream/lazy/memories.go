package lazy

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// firstForked is over every id that a keeper gives.
const firstForked = 1 << 32

// fresh takes a memory in as CRIU made it.
func (s *server) fresh(h handed) error {
	src, err := s.source(h.pid)
	if err != nil {
		unix.Close(h.fd)
		return err
	}
	if src.space != nil {
		gave, err := s.cfg.Reader.GaveBack(src.space)
		if gave {
			err = fmt.Errorf("process %d is restored anew: %w", h.pid, ErrGivenBack)
		}
		if err != nil {
			unix.Close(h.fd)
			return err
		}
	}
	m := &memory{id: h.id, fd: h.fd, source: src, where: newTranslation(src.hull())}
	m.resetDone()
	return s.take(m)
}

// forked takes a child in that an event brought. The keeper gets the descriptor
// before anything else is done.
func (s *server) forked(parent *memory, fd int) error {
	id := s.nextID
	s.nextID++
	s.tell(message{kind: forkedMsg, id: id, pid: parent.source.pid, parent: parent.id, fork: parent.forks}, fd)
	parent.forks++
	return s.take(parent.fork(id, fd))
}

// take begins to serve a memory that has no journal yet.
func (s *server) take(m *memory) error {
	s.memories[m.id] = m
	if err := s.renewJournal(m); err != nil {
		return err
	}
	return s.begin(m)
}

// begin begins to serve a memory.
func (s *server) begin(m *memory) error {
	s.memories[m.id] = m
	if m.forked {
		s.order = append(s.order, m)
	} else {
		s.order = append([]*memory{m}, s.order...)
	}
	s.progress.Total += m.source.pages
	return s.watch(m.fd, m.id)
}

func (s *server) renewJournal(m *memory) error {
	j, err := s.spares.take(s.cfg.Journal, m.snapshot(), s.number)
	if j == nil && err == nil {
		j, err = newJournal(s.cfg.Journal, m.snapshot(), s.number)
	}
	if err != nil {
		return err
	}
	if m.journal != nil {
		m.journal.close()
	}
	m.journal = j
	return nil
}

// settle asks the keeper to let go of memories that need nothing more, and closes
// those of processes that are gone and those that the keeper has let go of. Until
// then they are served: as long as any duplicate is open, a fork waits to be read.
func (s *server) settle() error {
	for i := 0; i < len(s.order); i++ {
		m := s.order[i]
		if !m.dead && (m.done.left > 0 || !s.finished || len(m.waiting) > 0) {
			continue
		}
		s.order = append(s.order[:i], s.order[i+1:]...)
		i--
		m.asked = true
		s.tell(message{kind: doneMsg, id: m.id}, -1)
		if s.sock < 0 || m.dead {
			if err := s.end(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// end closes a memory.
func (s *server) end(m *memory) error {
	delete(s.memories, m.id)
	s.unwanted(m.source)
	if g := m.source.giver; g != nil && m.done.left > 0 {
		g.ledger.touch(0, m.source.pages) // others may have been waited for by it alone
	}
	s.done += m.source.pages
	// The keeper's duplicate may still be open, and epoll watches as long.
	err := unix.EpollCtl(s.poll, unix.EPOLL_CTL_DEL, m.fd, nil)
	return errors.Join(err, unix.Close(m.fd), m.journal.remove())
}
