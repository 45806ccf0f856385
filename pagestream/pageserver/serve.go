package pageserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagehash"
)

// Pages takes pages to the destination; a stream of the wire does, and so does
// precopy.Stream. Only one goroutine uses one at a time.
type Pages interface {
	// Runs sends the pages of runs, which ascend and do not overlap, at most
	// MaxRuns of them; data is their content, one after the other, at most
	// ChunkBytes, and is free for reuse on return.
	Runs(space pagestream.Space, runs []pagestream.Range, data []byte) error
}

// DefaultIdle is how long a client may say nothing.
const DefaultIdle = time.Minute

// Config says what a server does with a conversation.
type Config struct {
	// Container is the container's index in its pod.
	Container uint16
	// Out are streams that pages are spread over; at least one. Pages of one
	// conversation reach the destination in any order, each once. Before the
	// next one, the session must be flushed.
	Out []Pages
	// Index is what the destination has. Without one no space has a parent,
	// and shared memory is sent whole.
	Index *Index
	// Hashes names tables of shared memory that something else has copied
	// ahead, such as precopy.Shared. Nil, and a nil table, is one of the
	// Index. What is sent then is remembered there.
	Hashes func(pagestream.Space) *pagehash.Table
	// Buffer is how many bytes are absorbed before the client must wait, at
	// least 4 MiB; 0 is DefaultBuffer, or a quarter of the free memory if that
	// is less. The memory is taken as it is needed and given back at the end.
	Buffer int64
	// Layout of the client's messages, if it is known; LayoutUnknown tells it
	// by the first message.
	Layout Layout
	// Idle is how long the client may be silent: 0 is DefaultIdle, and a
	// negative one leaves it to the context.
	Idle time.Duration

	// Repair sends pages that the client left out and the destination lacks:
	// the dump is still to be answered, and all of Out is idle and may be
	// used. Nil fails the round with ErrHole.
	Repair func(context.Context, pagestream.Space, []pagestream.Range) error
	// Flush returns when everything handed to Out is stored. The client's
	// CLOSE is answered after that: of a dump the container is frozen
	// meanwhile, and of a pre-dump it runs. Nil: once all is absorbed, CLOSE is
	// answered, and an error after that is known from Serve alone.
	Flush func(context.Context) error
	// Veto has the last word before CLOSE is answered: its error makes the
	// client fail, which after a dump means that the container runs on.
	Veto func(*Round) error
	// Read serves a lazy-pages daemon that asks for pages with GET: it fills
	// buf with the first pages of a range, and returns how many, at least one.
	// Nil refuses GET.
	Read func(ctx context.Context, space pagestream.Space, r pagestream.Range, buf []byte) (pages uint64, err error)

	// Progress is told, for each chunk, how many pages were absorbed so far.
	Progress func(pages uint64)
	// Log may be nil.
	Log *slog.Logger
}

// Serve answers one criu on conn until it closes the conversation, and closes
// conn. It returns when no goroutine of its own is left; Out.Runs is not cut
// short, so end the streams' session if ctx ends early.
//
// A round without an error is still to be committed to the Index, when criu has
// ended well too. After an error the Index has failed, criu was answered with a
// failure or its connection closed, either of which makes it fail and its tasks
// run on, and the round says how far it came. The error wraps one of this
// package's, the context's cause, or what Out, Repair, Flush or Veto returned.
func Serve(ctx context.Context, conn net.Conn, c Config) (*Round, error) {
	defer conn.Close()
	if len(c.Out) == 0 {
		return &Round{}, errors.New("page server: no stream to send pages to")
	}
	if c.Buffer == 0 {
		c.Buffer = defaultBuffer()
	}
	p, err := newPool(c.Buffer)
	if err != nil {
		return &Round{}, fmt.Errorf("page server: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := newServer(ctx, conn, c, p, cancel)
	err = s.run()
	if err != nil {
		cancel(err) // before the workers are waited for
	}
	s.drain.close()
	if err == nil {
		err = context.Cause(ctx) // a worker may have failed after the answer
	}
	cancel(nil)
	s.settle()
	err = errors.Join(err, p.close())
	if err != nil {
		if c.Index != nil {
			c.Index.Fail()
		}
		return s.talk.round, fmt.Errorf("page server of container %d: %w", c.Container, err)
	}
	return s.talk.round, nil
}

// server is one conversation being served.
type server struct {
	config Config
	ctx    context.Context
	conn   net.Conn
	in     *input
	layout Layout
	talk   *conversation
	pool   *pool
	drain  *drain
	chunk  *chunk    // being filled; nil: none
	began  time.Time // the first message
	ended  time.Time // the last one; zero: the client did not end well
}

func newServer(ctx context.Context, conn net.Conn, c Config, p *pool, fail context.CancelCauseFunc) *server {
	idle := c.Idle
	if idle == 0 {
		idle = DefaultIdle
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{
		config: c,
		ctx:    ctx,
		conn:   conn,
		in:     newInput(ctx, conn, max(idle, 0)),
		layout: c.Layout,
		talk:   newConversation(c.Container, c.Index),
		pool:   p,
	}
	s.drain = newDrain(ctx, p, c.Out, s.table, fail)
	if c.Index != nil {
		c.Index.begin(s.talk.round)
	}
	return s
}

// table is where the hashes of a space are.
func (s *server) table(space pagestream.Space) *pagehash.Table {
	var named *pagehash.Table
	if s.config.Hashes != nil {
		named = s.config.Hashes(space)
	}
	return s.config.Index.table(space, named)
}

// run holds the conversation.
func (s *server) run() error {
	// What ends the context must end a read and a wait for room.
	defer s.pool.stopWith(s.ctx)()
	defer context.AfterFunc(s.ctx, func() { s.conn.SetDeadline(time.Unix(1, 0)) })()
	for {
		m, err := s.next()
		if err != nil {
			return err
		}
		do, err := s.talk.accept(m)
		if err != nil {
			return err
		}
		var payload uint64
		switch do.kind {
		case answerByte:
			err = s.answer([]byte{bit(do.has)})
		case answerInt:
			err = s.answer(binary.NativeEndian.AppendUint32(nil, uint32(bit(do.has))))
		case take:
			payload = do.pages.Bytes()
			s.in.expect(s.layout.size(), payload)
			err = s.take(do.space, do.pages)
		case get:
			err = s.get(m, do)
		case finish:
			return s.finish()
		}
		if err != nil {
			return err
		}
		s.in.expect(s.layout.size(), payload)
	}
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// next reads a message. The first one tells the layout.
func (s *server) next() (message, error) {
	if s.layout == LayoutUnknown {
		return s.first()
	}
	b, err := s.in.message(s.layout.size())
	if err != nil {
		return message{}, err
	}
	s.mark()
	return s.layout.decode(b), nil
}

// first reads the first message. If it is the end, its layout stays unknown.
func (s *server) first() (message, error) {
	b, err := s.in.message(size24)
	if err != nil {
		return message{}, err
	}
	var whole [size32]byte
	copy(whole[:], b)
	l, err := detect(whole[:size24])
	if err != nil {
		return message{}, err
	}
	s.layout = l
	s.mark()
	if l == Layout32 {
		if b, err = s.in.message(size32 - size24); err != nil {
			return message{}, err
		}
		copy(whole[size24:], b)
	}
	return l.decode(whole[:]), nil
}

// mark notes that the conversation has begun.
func (s *server) mark() {
	if s.began.IsZero() {
		s.began = time.Now()
		s.talk.round.Layout = s.layout
	}
}

// answer sends a reply.
func (s *server) answer(b []byte) error {
	if s.in.idle > 0 {
		if err := s.conn.SetWriteDeadline(time.Now().Add(s.in.idle)); err != nil {
			return s.in.explain(err)
		}
	}
	if cause := context.Cause(s.ctx); cause != nil {
		return cause
	}
	if _, err := s.conn.Write(b); err != nil {
		if cause := context.Cause(s.ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("answer criu: %w: %w", err, ErrClientGone)
	}
	return nil
}

// take reads the content of pages into chunks.
func (s *server) take(space pagestream.Space, r pagestream.Range) error {
	for r.Pages > 0 {
		c, err := s.room(space)
		if err != nil {
			return err
		}
		n := min(r.Pages, c.room())
		at := len(c.data)
		c.data = c.data[:at+int(n*pagestream.PageSize)]
		if err := s.in.payload(c.data[at:], n == r.Pages); err != nil {
			return err
		}
		c.runs = append(c.runs, pagestream.Range{Start: r.Start, Pages: n})
		r.Start += n * pagestream.PageSize
		r.Pages -= n
	}
	return nil
}

// room returns a chunk of a space that is not full.
func (s *server) room(space pagestream.Space) (*chunk, error) {
	if s.chunk != nil && s.chunk.space == space && s.chunk.room() > 0 {
		return s.chunk, nil
	}
	s.hand()
	c, waited, err := s.pool.get()
	s.talk.round.Waited += waited
	if err != nil {
		return nil, err
	}
	c.space = space
	s.chunk = c
	return c, nil
}

// hand hands the chunk that is being filled to the streams.
func (s *server) hand() {
	if s.chunk == nil {
		return
	}
	s.drain.queue <- s.chunk
	s.chunk = nil
	if s.config.Progress != nil {
		s.config.Progress(s.talk.round.Present)
	}
}

// settle completes the round's figures, when all workers have ended.
func (s *server) settle() {
	r := s.talk.round
	s.talk.close()
	r.Sent, r.Unchanged = s.drain.sent.Load(), s.drain.unchanged.Load()
	r.Buffered = s.pool.buffered()
	if r.Drained == 0 && !s.ended.IsZero() {
		r.Drained = time.Since(s.ended)
	}
}
