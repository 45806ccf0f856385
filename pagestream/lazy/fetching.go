package lazy

import (
	"context"
	"fmt"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

// leave has the pages of a space that were left at the source brought from there.
func (s *server) leave(name pagestream.Space, src *source) error {
	sp := s.cfg.Reader.Space(name)
	if len(sp.Left()) == 0 {
		return nil
	}
	if s.cfg.Remote == nil {
		return fmt.Errorf("space %s: pages were left at the source, and nothing is known of that: %w", name, ErrSourceLost)
	}
	if s.fetcher == nil {
		var err error
		if s.arrived, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return fmt.Errorf("eventfd: %w", err)
		}
		s.fetcher = newFetcher(*s.cfg.Remote, s.cfg.Container, s.log, s.arrived)
	}
	return s.fetcher.add(s.cfg.Reader, sp, src)
}

// watchFetcher has the server's thread hear of pages that have come.
func (s *server) watchFetcher() error {
	if s.fetcher == nil {
		return nil
	}
	return s.watch(s.arrived, tagPages)
}

// fetch starts the fetcher, which ends with ctx.
func (s *server) fetch(ctx context.Context) {
	switch {
	case s.fetcher != nil:
		s.fetcher.run(ctx, s.restored, s.cfg.Calm)
	case s.cfg.Remote != nil: // nothing was left at the source, after all
		s.cfg.Remote.Listener.Close()
	}
}

// pagesCame serves the faults whose pages have come, and asks again for the others: the
// connection may be another.
func (s *server) pagesCame() error {
	var b [8]byte
	unix.Read(s.arrived, b[:])
	if missing, _, lost := s.fetcher.state(); lost != nil && missing > 0 {
		s.tell(message{kind: sourceLostMsg, missing: missing}, -1)
		return lost
	}
	for _, m := range s.memories {
		waiting := m.absent
		m.absent = nil
		for _, addr := range waiting {
			if err := s.serve(m, addr); err != nil {
				return err
			}
		}
	}
	return nil
}

// unwanted tells the fetcher that a source has no process any more.
func (s *server) unwanted(src *source) {
	for _, m := range s.memories {
		if m.source == src {
			return
		}
	}
	src.from.forget(0, src.pages)
}

// partedFromSource tells the source that nothing more is needed, and says whether it has
// heard, or cannot any more.
func (s *server) partedFromSource() bool {
	if s.fetcher == nil {
		return true
	}
	s.fetcher.finish()
	return s.fetcher.isParted()
}
