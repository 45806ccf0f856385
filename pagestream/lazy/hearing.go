package lazy

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// handed is a memory that the keeper told of, without descriptor if it has ended.
type handed struct {
	message
	fd int
}

// tell sends the keeper a message. A keeper that has gone is no error here: the server
// goes on alone, if it can.
func (s *server) tell(m message, fd int) {
	if s.sock < 0 {
		return
	}
	if err := send(s.sock, m, fd, 0); err != nil {
		s.abandon(err)
	}
}

// abandon lets go of a keeper that has gone.
func (s *server) abandon(cause error) {
	unix.Close(s.sock)
	s.sock = -1
	if s.alone() {
		s.log.Warn("fault server: the keeper is gone; going on alone", "error", cause)
	}
}

// alone says whether the server has all that a keeper would give it: else nothing more
// would come, and it would wait for ever.
func (s *server) alone() bool { return s.ready && s.finished }

// reportEvery is how often the keeper hears of progress.
const reportEvery = 20 * time.Millisecond

func (s *server) report(now bool) {
	if s.sock < 0 || !s.ready || !s.finished && s.progress.Lost == 0 {
		return // nobody waits for it yet
	}
	if t := time.Now(); !now && t.Sub(s.reported) < reportEvery {
		return
	} else {
		s.reported = t
	}
	p := &s.progress
	p.Filled, p.Memories = s.done, 0
	for _, m := range s.memories {
		p.Filled += m.source.pages - m.done.left
		if m.done.left > 0 {
			p.Memories++
		}
	}
	if s.fetcher != nil {
		p.Missing, p.Remote, _ = s.fetcher.state()
	}
	// If the keeper does not read, it hears of it the next time.
	_ = send(s.sock, message{kind: progressMsg, filled: p.Filled, total: p.Total, faults: p.Faults,
		memories: uint64(p.Memories), lost: uint64(p.Lost), missing: p.Missing, remote: p.Remote,
		held: p.Held, peak: p.Peak}, -1, unix.MSG_DONTWAIT)
}

// listen takes what the keeper has said.
func (s *server) listen() error {
	for s.sock >= 0 {
		m, fd, err := receive(s.sock, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, io.EOF):
			s.abandon(io.EOF)
			return s.endAsked()
		case err != nil:
			return fmt.Errorf("listen to the keeper: %w", err)
		}
		if err := s.heard(m, fd); err != nil {
			return err
		}
	}
	return nil
}

// endAsked closes memories that wait for a keeper which is gone.
func (s *server) endAsked() error {
	for _, m := range s.memories {
		if m.asked {
			if err := s.end(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *server) heard(m message, fd int) error {
	switch m.kind {
	case memoryMsg, endedMsg:
		if s.ready && m.kind == memoryMsg {
			return s.fresh(handed{m, fd})
		}
		s.handed = append(s.handed, handed{m, fd})
	case heldMsg:
		s.held[m.id] = fd
	case readyMsg:
		s.ready, s.number = true, m.id
		if err := s.adopt(); err != nil {
			return err
		}
		s.closeHeld()
		s.tell(message{kind: adoptedMsg}, -1)
	case finishedMsg:
		if !s.finished {
			s.finished = true
			s.reported = time.Now()
			s.pause = s.reported.Add(s.cfg.Calm)
			close(s.restored)
		}
	case madeMsg:
		s.made = true
	case releasedMsg:
		s.runs = true
		if !s.ready { // the server follows another, whose notes it has to have read
			return s.release()
		}
		// The container's first faults come now: all else can wait for beginFilling.
		s.pause = time.Now().Add(s.cfg.Calm)
	case closedMsg:
		if x := s.memories[m.id]; x != nil && x.asked {
			return s.end(x)
		}
	default:
		return fmt.Errorf("message of kind %d from the keeper: %w", m.kind, errMessage)
	}
	return nil
}

func (s *server) closeHeld() {
	for number, fd := range s.held {
		unix.Close(fd)
		delete(s.held, number)
	}
}
