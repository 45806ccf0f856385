package lazy

import (
	"time"

	"golang.org/x/sys/unix"
)

// events reads what a userfaultfd has to tell. Events come before the faults that
// were read with them: having read them let the process go on, and the page that a
// fault asks for may be one that it has given up.
func (s *server) events(m *memory) error {
	batch, errno := m.journal.read(m.fd)
	switch errno {
	case 0:
	case unix.EAGAIN, unix.EINTR:
		return nil
	default:
		return m.failed("read events", 0, errno)
	}
	for b := batch; len(b) > 0; b = b[msgSize:] {
		switch e := decodeEvent(b); e.kind {
		case eventFault:
		case eventFork:
			if err := s.forked(m, e.child()); err != nil {
				return err
			}
		default:
			m.apply(e)
		}
	}
	for b := batch; len(b) > 0; b = b[msgSize:] {
		if e := decodeEvent(b); e.kind == eventFault {
			if err := s.serve(m, e.fault()); err != nil {
				return err
			}
		}
	}
	if m.journal.full() {
		return s.renewJournal(m)
	}
	return nil
}

func (s *server) serve(m *memory, addr uint64) error {
	res, err := m.serve(addr)
	switch res {
	case again, short:
		m.waiting = append(m.waiting, addr)
		return err
	case elsewhere:
		m.absent = append(m.absent, addr)
		return err
	case gone:
		m.dead = true
	}
	s.progress.Faults++
	s.haste.fault(time.Now())
	s.prioritise(true)
	return err
}

// again answers faults that could not be answered at once, and says whether any is
// left.
func (s *server) again() (left bool, err error) {
	for _, m := range s.memories {
		if len(m.waiting) == 0 {
			continue
		}
		waiting := m.waiting
		m.waiting = nil
		for _, addr := range waiting {
			if err := s.serve(m, addr); err != nil {
				return true, err
			}
		}
		left = left || len(m.waiting) > 0
	}
	return left, nil
}
