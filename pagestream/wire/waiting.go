package wire

import "time"

// SetBandwidth changes the limit on the bytes per second of all streams
// together, also for frames that wait; 0 lifts it.
func (s *Session) SetBandwidth(bytesPerSecond int64) { s.SetShare(bytesPerSecond, false) }

// SetShare is SetBandwidth, and with held it holds bulk back until it is called
// again without: urgent frames, acknowledgements and what keeps the session alive
// go on.
func (s *Session) SetShare(bytesPerSecond int64, held bool) {
	s.limiter.Set(bytesPerSecond, held, time.Now())
}

// SetUrgent says of all streams what Stream.SetUrgent says of one.
func (s *Session) SetUrgent(urgent bool) {
	for _, st := range s.streams {
		st.urgent.Store(urgent)
	}
	s.limiter.Nudge()
}

// SetUrgent says whether the stream's frames from now on, and the one that waits,
// are urgent: somebody stands still for them. They go ahead of the bulk of all
// streams of the session, within its bandwidth, and are not held back.
func (s *Stream) SetUrgent(urgent bool) {
	s.urgent.Store(urgent)
	s.session.limiter.Nudge()
}

// waitForRoom waits for the bandwidth limit and for the window. It returns how long the
// session was held back, see Session.SetShare, and how long the limit made it wait besides.
func (s *Stream) waitForRoom(n uint64, start time.Time) (held, limited time.Duration, err error) {
	done := s.session.done
	if held, limited, err = s.waitForLimit(n, start); err != nil {
		return held, limited, err
	}
	var blocked time.Time
	for {
		changed := s.flow.room(n)
		if changed == nil {
			break
		}
		if blocked.IsZero() {
			blocked = time.Now()
		}
		select {
		case <-changed:
		case <-done:
			return held, limited, s.session.Err()
		}
	}
	if !blocked.IsZero() {
		s.written.blocked.Add(int64(time.Since(blocked)))
	}
	return held, limited, nil
}

// waitForLimit waits until the limit lets a frame of n bytes pass, and returns how
// long it was held back altogether, which says nothing of the link, and how long it waited besides.
func (s *Stream) waitForLimit(n uint64, start time.Time) (held, limited time.Duration, err error) {
	l := s.session.limiter
	if l.Free() {
		return 0, 0, nil
	}
	urgent := s.urgent.Load()
	mark := l.Book(n, urgent, start)
	now := start
	for {
		wait, isHeld, changed := l.Wait(mark, urgent, now)
		if wait == 0 && !isHeld {
			break
		}
		if err := s.awaitChange(wait, changed); err != nil {
			return held, limited, err
		}
		before := now
		if now = time.Now(); isHeld {
			held += now.Sub(before)
		}
		if !urgent && s.urgent.Load() {
			break // what was booked as bulk is owed by later bulk
		}
	}
	if waited := now.Sub(start); waited > 0 {
		s.written.throttled.Add(int64(waited))
		limited = waited - held
	}
	return held, limited, nil
}

// awaitChange waits so long, without end if it is 0, or until changed is closed.
func (s *Stream) awaitChange(wait time.Duration, changed <-chan struct{}) error {
	var over <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
	case <-changed:
	case <-s.session.done:
		return s.session.Err()
	}
	return nil
}
