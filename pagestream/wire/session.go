package wire

import (
	"context"
	"fmt"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream/linklimit"
)

const (
	// abortGrace is how long Abort tries to tell the peer why.
	abortGrace = 500 * time.Millisecond
	// watchesPerTimeout is how often within the timeout progress is looked at.
	watchesPerTimeout = 10
)

// Session is the sending side of a migration's streams. It ends by Close, by
// Abort, or by the first error, which every later call returns.
type Session struct {
	peer    string
	streams []*Stream
	limiter *linklimit.Limiter
	active  activity
	idle    *idleProcessors
	shares  *shares

	once sync.Once // guards the setting of err
	err  error     // set before done is closed
	done chan struct{}

	closeOnce sync.Once
	closeErr  error
	owned     sync.WaitGroup // the goroutines of the session
}

func newSession(o *DialOptions, conns []*pageConn) *Session {
	s := &Session{peer: o.ServerName, limiter: linklimit.New(o.Bandwidth), idle: newIdleProcessors(), shares: newShares(len(conns)), done: make(chan struct{})}
	for i, conn := range conns {
		s.streams = append(s.streams, newStream(s, i, conn, o))
	}
	for _, st := range s.streams {
		s.owned.Go(st.readAcks)
		s.owned.Go(func() { st.tend(keepAlive(o.Timeout)) })
	}
	s.owned.Go(func() { s.watch(o.Timeout) })
	return s
}

// keepAlive is how often a silent stream is heard of, given the time after
// which a peer counts as hung.
func keepAlive(timeout time.Duration) time.Duration {
	return min(max(timeout/4, minKeepAlive), maxKeepAlive)
}

// Peer is the node name of the receiving side.
func (s *Session) Peer() string { return s.peer }

// Streams is how many streams the session has.
func (s *Session) Streams() int { return len(s.streams) }

// Stream returns one of them, 0 to Streams()-1.
func (s *Session) Stream(i int) *Stream { return s.streams[i] }

// Done is closed when the session has ended; Err says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lives, ErrClosed after a clean Close, else
// what ended it.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// TakesContents says whether the receiver knows spaces of pagestream.Content, and puts pages files together from them.
func (s *Session) TakesContents() bool {
	for _, st := range s.streams {
		if st.conn.features&featureContents == 0 {
			return false
		}
	}
	return true
}

// Flush returns when the receiver has stored everything that was sent, on
// any stream, before the call. It may be called while other goroutines send.
// If ctx ends first, its error is returned and the session goes on.
func (s *Session) Flush(ctx context.Context) error { return s.markAll(ctx, frameBarrier) }

// markAll writes a frame on all streams and waits until it is acknowledged.
func (s *Session) markAll(ctx context.Context, kind frameType) error {
	marks := make([]uint64, len(s.streams))
	for i, st := range s.streams {
		mark, err := st.mark(ctx, kind)
		if err != nil {
			return err
		}
		marks[i] = mark
	}
	for i, st := range s.streams {
		if err := st.waitStored(ctx, marks[i]); err != nil {
			return err
		}
	}
	return nil
}

// Stats returns what has been sent so far.
func (s *Session) Stats() Stats {
	var sum Stats
	for _, st := range s.streams {
		st.written.addTo(&sum)
		sum.Acked += st.flow.delivered()
	}
	now := time.Now()
	sum.Active, sum.Held = s.active.until(now), s.limiter.Held(now)
	return sum
}

// Close ends the session cleanly: it returns nil when the receiver has stored
// everything and knows that it is the end; its Receiver's Closed(nil) follows
// at once. If the session ended before, Close returns why. Either way the
// connections and goroutines are gone afterwards.
func (s *Session) Close() error {
	s.closeOnce.Do(func() {
		s.closeErr = s.markAll(context.Background(), frameBye)
		s.fail(ErrClosed)
		s.release()
	})
	return s.closeErr
}

// Abort ends the session at once: what is under way is lost, and the
// receiver's Closed gets a *RemoteError with the error's text, if it can be
// told within half a second. Later calls return the error.
func (s *Session) Abort(err error) {
	s.closeOnce.Do(func() {
		s.closeErr = fmt.Errorf("session to peer %s aborted: %w", s.peer, err)
		if s.end(s.closeErr) {
			s.tellAbort(boundedText(err.Error()))
		}
		s.cut()
		s.release()
	})
}

// tellAbort sends the reason on every stream that is free for it and waits
// for the receiver to hang up.
func (s *Session) tellAbort(text string) {
	ctx, cancel := context.WithTimeout(context.Background(), abortGrace)
	defer cancel()
	var told sync.WaitGroup
	for _, st := range s.streams {
		told.Go(func() {
			select {
			case <-st.gate:
			case <-ctx.Done():
				return
			}
			defer st.unlock()
			st.conn.batch.SetWriteDeadline(time.Now().Add(abortGrace))
			body := []byte(text)
			h := header{kind: frameAbort, raw: uint32(len(body)), body: uint32(len(body))}
			if st.write(&h, nil, [][]byte{body}) != nil || st.conn.flush() != nil {
				return
			}
			select {
			case <-st.readDone:
			case <-ctx.Done():
			}
		})
	}
	told.Wait()
}

// end sets why the session ended; false: it had ended before.
func (s *Session) end(err error) bool {
	first := false
	s.once.Do(func() {
		s.err, first = err, true
		close(s.done)
	})
	return first
}

// cut closes the connections, so that nothing waits for them any more. What
// the kernel still holds is dropped.
func (s *Session) cut() {
	for _, st := range s.streams {
		st.conn.batch.SetLinger(0)
		st.conn.batch.Close()
	}
}

// fail ends the session with an error, unless it ended before, and returns
// why it ended.
func (s *Session) fail(err error) error {
	if s.end(err) {
		s.cut()
	}
	return s.Err()
}

// release waits for the session's goroutines and frees its compressors.
func (s *Session) release() {
	s.owned.Wait()
	for _, st := range s.streams {
		st.mu.Lock() // a call that was cut short may still be on its way out
		st.encoder.close()
		st.mu.Unlock()
	}
}

// watch ends the session if the peer owes an acknowledgement for longer than
// the timeout.
func (s *Session) watch(timeout time.Duration) {
	ticker := time.NewTicker(max(timeout/watchesPerTimeout, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return
		case now := <-ticker.C:
			for i, st := range s.streams {
				if stuck, owed := st.flow.stuck(now); stuck > timeout {
					s.fail(fmt.Errorf("peer %s: stream %d: nothing taken for %v with %d bytes under way: %w",
						s.peer, i, stuck.Round(time.Millisecond), owed, ErrHung))
					return
				}
			}
		}
	}
}
