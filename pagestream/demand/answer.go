package demand

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/linklimit"
)

// Memory reads pages of frozen processes.
type Memory interface {
	// ReadPages reads whole pages of a process, as its container has it, into buf. It is
	// called by one goroutine.
	ReadPages(process uint32, start uint64, buf []byte) error
}

// Answering is the answering side of a connection.
type Answering struct {
	Memory Memory
	// Limit, if not nil, is what answers may take of the link; those that a process waits for
	// are urgent.
	Limit *linklimit.Limiter
	// Waited, if not nil, is told how long the limit has kept requests waiting.
	Waited func(time.Duration)
	// Status, if not nil, is told how far the other side is.
	Status func(missing, faults uint64)
	// Sent, if not nil, is told of pages and bytes that have been sent.
	Sent func(pages, bytes uint64)
}

// ErrUnreadable is wrapped by the error of a page that cannot be read, ever.
var ErrUnreadable = errors.New("a page of the frozen pod cannot be read")

// errDone: the other side has said, in so many words, that it needs nothing more. The end of a
// connection never says that.
var errDone = errors.New("nothing more is needed")

// request is a want that is not answered yet.
type request struct {
	process uint32
	start   uint64
	pages   uint64
}

// answering is one connection at work.
type answering struct {
	Answering
	conn net.Conn
	wake chan struct{} // something of what follows has changed, with room for one

	mu     sync.Mutex // guards what follows
	urgent []request
	rest   []request
	echoes int
	done   bool  // the other side needs nothing more
	err    error // the connection is over
}

// Answer answers on a connection until the other side needs nothing more, and returns
// nil then. Any other end is an error; one that wraps ErrUnreadable is final. It closes
// the connection.
func (a Answering) Answer(ctx context.Context, conn net.Conn) error {
	s := &answering{Answering: a, conn: conn, wake: make(chan struct{}, 1)}
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	defer stop()
	var reader sync.WaitGroup
	reader.Go(s.listen)
	err := s.work()
	s.fail(err)
	reader.Wait()
	return err
}

// fail ends the connection.
func (s *answering) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.rouse()
	s.conn.Close()
}

// rouse has work look again what there is to do.
func (s *answering) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// listen takes in what the other side says.
func (s *answering) listen() {
	var buf []byte
	for {
		s.conn.SetReadDeadline(time.Now().Add(Silence))
		f, err := read(s.conn, &buf)
		if err != nil {
			s.fail(fmt.Errorf("missing pages are not asked for any more: %w", err))
			return
		}
		if err := s.take(f); err != nil {
			s.fail(err)
			return
		}
		if f.kind == done {
			return
		}
	}
}

// take notes one frame.
func (s *answering) take(f frame) error {
	if f.kind == status && s.Status != nil {
		s.Status(f.start, f.pages)
	}
	defer s.rouse()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch f.kind {
	case want:
		r := request{f.process, f.start, f.pages}
		if len(s.urgent)+len(s.rest) >= MaxQueue {
			return fmt.Errorf("more than %d requests are unanswered: %w", MaxQueue, ErrProtocol)
		}
		if f.waits {
			s.urgent = append(s.urgent, r)
		} else {
			s.rest = append(s.rest, r)
		}
	case status:
		s.echoes++
		if s.echoes > MaxQueue {
			return fmt.Errorf("more than %d unanswered beats: %w", MaxQueue, ErrProtocol)
		}
	case done:
		s.done = true
	default:
		return fmt.Errorf("frame of kind %d from who asks: %w", f.kind, ErrProtocol)
	}
	return nil
}

// task is what is to be done next.
type task struct {
	request
	urgent bool
	echoes int // beats to answer; then there is no request
}

// next waits for what is to be done. What nobody waits for comes when nothing else is to be
// done; either comes when the limit lets it pass.
func (s *answering) next() (task, error) {
	for {
		urgent, urgentChanged := s.paced(true)
		rest, restChanged := s.paced(false)
		t, pending, err := s.pick(urgent == 0, rest == 0)
		if err != nil || t.echoes > 0 || t.pages > 0 {
			return t, err
		}
		began := time.Now()
		switch pending {
		case pendingUrgent:
			s.await(urgent, urgentChanged)
		case pendingRest:
			s.await(rest, restChanged)
		default:
			s.await(0, nil)
			continue
		}
		if s.Waited != nil {
			s.Waited(time.Since(began))
		}
	}
}

// forever is longer than anybody waits.
const forever = time.Hour

// paced is how long a lane of the limit has to wait, and what is closed when that changes.
func (s *answering) paced(urgent bool) (time.Duration, <-chan struct{}) {
	if s.Limit == nil || s.Limit.Free() {
		return 0, nil
	}
	now := time.Now()
	wait, held, changed := s.Limit.Wait(s.Limit.Book(0, urgent, now), urgent, now)
	if held {
		wait = forever
	}
	return wait, changed
}

// await waits so long, 0 being without end, or until something changes.
func (s *answering) await(wait time.Duration, changed <-chan struct{}) {
	var over <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-s.wake:
	case <-changed:
	case <-over:
	}
}

// pending is what there is to answer that has to wait for the limit.
type pending int

const (
	pendingNothing pending = iota
	pendingUrgent          // a process waits for it
	pendingRest
)

// pick takes what is to be done next, if there is something that may go.
func (s *answering) pick(urgent, rest bool) (t task, p pending, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.done:
		return t, p, errDone
	case s.err != nil:
		return t, p, s.err
	case s.echoes > 0:
		t.echoes, s.echoes = s.echoes, 0
	case len(s.urgent) > 0 && urgent:
		t.urgent = true
		t.request, s.urgent = s.urgent[0], s.urgent[1:]
	case len(s.urgent) > 0:
		p = pendingUrgent
	case len(s.rest) > 0 && rest:
		t.request, s.rest = s.rest[0], s.rest[1:]
	case len(s.rest) > 0:
		p = pendingRest
	}
	return t, p, nil
}

// work answers.
func (s *answering) work() error {
	data := make([]byte, maxBody)
	var out []byte
	for {
		t, err := s.next()
		if errors.Is(err, errDone) {
			return s.part()
		}
		if err != nil {
			return err
		}
		out = out[:0]
		for range t.echoes {
			out = (&frame{kind: echo}).appendTo(out)
		}
		if t.echoes == 0 {
			if out, err = s.answer(out, t.request, data); err != nil {
				return err
			}
			s.book(len(out), t.urgent)
		}
		s.conn.SetWriteDeadline(time.Now().Add(Silence))
		if _, err := s.conn.Write(out); err != nil {
			return fmt.Errorf("send missing pages: %w", err)
		}
		if t.echoes == 0 && s.Sent != nil {
			s.Sent(t.pages, uint64(len(out)))
		}
	}
}

// book has what comes next wait for what is sent.
func (s *answering) book(bytes int, urgent bool) {
	if s.Limit != nil && !s.Limit.Free() {
		s.Limit.Book(uint64(bytes), urgent, time.Now())
	}
}

// part tells the other side that its last word was heard. If that does not get there it
// says it again, to whoever still listens.
func (s *answering) part() error {
	s.conn.SetWriteDeadline(time.Now().Add(Silence))
	_, _ = s.conn.Write((&frame{kind: parting}).appendTo(nil))
	return nil
}

// answer appends the answer to a request.
func (s *answering) answer(out []byte, r request, data []byte) ([]byte, error) {
	data = data[:r.pages*pagestream.PageSize]
	if err := s.Memory.ReadPages(r.process, r.start, data); err != nil {
		err = fmt.Errorf("process %d, %s: %w: %w", r.process, pagestream.Range{Start: r.start, Pages: r.pages}, ErrUnreadable, err)
		s.conn.SetWriteDeadline(time.Now().Add(Silence))
		text := err.Error()
		_, _ = s.conn.Write((&frame{kind: refusal, body: []byte(text[:min(len(text), MaxText)])}).appendTo(nil))
		return out, err
	}
	f := frame{kind: pages, process: r.process, start: r.start, pages: r.pages}
	f.zero, f.body = squeeze(data)
	return f.appendTo(out), nil
}

// squeeze takes the pages of zeros out of data, in place.
func squeeze(data []byte) (zero uint64, rest []byte) {
	kept := 0
	for i := 0; i < len(data)/pagestream.PageSize; i++ {
		page := data[i*pagestream.PageSize:][:pagestream.PageSize]
		if isZero(page) {
			zero |= 1 << i
			continue
		}
		if i != kept {
			copy(data[kept*pagestream.PageSize:], page)
		}
		kept++
	}
	return zero, data[:kept*pagestream.PageSize]
}

var zeroPage [pagestream.PageSize]byte

func isZero(page []byte) bool { return string(page) == string(zeroPage[:]) }
