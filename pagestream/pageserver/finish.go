package pageserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// refused is the status that CLOSE is answered with if the round failed: any
// but 0 makes the client fail (criu/page-xfer.c, disconnect_from_page_server).
const refused = -1

// finish answers CLOSE, with a failure if the round is one.
func (s *server) finish() error {
	s.ended = time.Now()
	s.talk.round.Absorbed = s.ended.Sub(s.began)
	s.hand()
	err := s.complete()
	if err == nil && s.config.Veto != nil {
		err = s.config.Veto(s.talk.round)
	}
	status := int32(0)
	if err != nil {
		status = refused
	}
	if failed := s.answer(binary.NativeEndian.AppendUint32(nil, uint32(status))); err == nil {
		err = failed
	}
	return err
}

// complete does what must be done before the client may believe that all went
// well.
func (s *server) complete() error {
	holes := s.talk.missing
	if len(holes) > 0 && s.config.Repair == nil {
		return fmt.Errorf("%w: %d ranges, first %s of space %s", ErrHole, rangesOf(holes), holes[0].ranges[0], holes[0].space)
	}
	if len(holes) == 0 && s.config.Flush == nil {
		return nil
	}
	if err := s.pool.empty(); err != nil {
		return err
	}
	drained := time.Now()
	s.talk.round.Drained = drained.Sub(s.ended)
	for _, h := range holes {
		if err := s.config.Repair(s.ctx, h.space, h.ranges); err != nil {
			return fmt.Errorf("repair %d pages of space %s: %w", pagesOf(h.ranges), h.space, err)
		}
		s.talk.round.Repaired += pagesOf(h.ranges)
	}
	if s.config.Flush != nil {
		if err := s.config.Flush(s.ctx); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		s.talk.round.Flushed = time.Since(drained)
	}
	return context.Cause(s.ctx)
}

func rangesOf(holes []hole) int {
	n := 0
	for _, h := range holes {
		n += len(h.ranges)
	}
	return n
}

// get answers a request for pages with as many of them as fit into a chunk: the
// client asks again for the rest.
func (s *server) get(m message, do step) error {
	if s.config.Read == nil {
		return bad(m, "pages are asked for, but there is no reader")
	}
	c, waited, err := s.pool.get()
	s.talk.round.Waited += waited
	if err != nil {
		return err
	}
	defer s.pool.put(c)
	r := do.pages
	r.Pages = min(r.Pages, ChunkBytes/pagestream.PageSize)
	buf := c.data[:r.Bytes()]
	n, err := s.config.Read(s.ctx, do.space, r, buf)
	if err != nil {
		return fmt.Errorf("read pages %s of space %s: %w", r, do.space, err)
	}
	if n == 0 || n > r.Pages {
		return fmt.Errorf("read pages %s of space %s: %d pages", r, do.space, n)
	}
	m.cmd, m.flags, m.pages = cmdAddFlags, images.Present, n
	s.talk.round.Served += n
	if err := s.answer(s.layout.append(nil, m)); err != nil {
		return err
	}
	return s.answer(buf[:n*pagestream.PageSize])
}
