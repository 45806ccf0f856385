package lazy

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxSpins is how often a process whose memory is changing is looked at before the
// server sleeps.
const maxSpins = 200

// run is the life of the server's thread.
func (s *server) run() error {
	var events [64]unix.EpollEvent
	wait, spins := -1, 0
	for {
		if s.sock < 0 && !s.alone() {
			return errNoKeeper
		}
		n, err := unix.EpollWait(s.poll, events[:], wait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, ev := range events[:max(n, 0)] {
			if err := s.dispatch(uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32); err != nil {
				return err
			}
		}
		waiting, err := s.again()
		if err != nil {
			return err
		}
		res, worked, err := s.fill()
		if err != nil {
			return err
		}
		if err := errors.Join(s.giveBack(), s.settle()); err != nil {
			return err
		}
		if s.finished && s.ready && len(s.memories) == 0 && s.partedFromSource() {
			s.report(true)
			s.tell(message{kind: allDoneMsg}, -1)
			s.spares.drop()
			_ = os.Remove(s.cfg.Journal) // empty, unless a crash left something
			return nil
		}
		s.report(false)
		switch {
		case res == filled && worked:
			wait = 0
		case res == paced && !waiting:
			wait = max(1, int((time.Until(s.pause)+time.Millisecond-1)/time.Millisecond))
		case waiting || res == again || res == short:
			// The process is on its way to the event that ends this, or past it and
			// about to run on; nothing tells when.
			wait = 1
			if spins++; spins < maxSpins {
				wait = 0
				unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			}
			continue
		default:
			wait = -1
		}
		spins = 0
	}
}

// Tags of descriptors in epoll; a memory's is its id.
const (
	tagKeeper = ^uint64(0)
	tagStop   = tagKeeper - 1
	tagPages  = tagKeeper - 2
)

func (s *server) watch(fd int, tag uint64) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(tag), Pad: int32(tag >> 32)}
	if err := unix.EpollCtl(s.poll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (s *server) dispatch(tag uint64) error {
	switch tag {
	case tagStop:
		return errStopped
	case tagKeeper:
		return s.listen()
	case tagPages:
		return s.pagesCame()
	}
	if m := s.memories[tag]; m != nil {
		return s.events(m)
	}
	return nil // closed by an event of the same batch
}
