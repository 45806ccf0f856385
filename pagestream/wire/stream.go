package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
)

// linger is how long a frame may lie in our buffers for more to join it.
const linger = 2 * time.Millisecond

// Stream is one of a session's streams. Its methods are meant for one
// goroutine at a time; a second one waits. What is handed to them may be
// reused once they return. They return before the peer has stored anything:
// Session.Flush waits for that. An error that is not about the arguments is
// the session's and ends it.
type Stream struct {
	session *Session
	number  int
	flow    flow
	urgent  atomic.Bool // see SetUrgent

	mu      sync.Mutex // held by a call; guards what follows
	batch   batch
	pieces  [][]byte
	joined  []byte // pieces of a body one after the other, for a compressor
	encoder encoder
	observe *observer

	// gate holds one element; who takes it may write to conn and use what
	// follows.
	gate   chan struct{}
	conn   *pageConn
	hasher xxh3.Hasher
	ended  bool // the last frame has been written

	kick     chan struct{} // something may lie in conn's buffers
	readDone chan struct{} // closed when the reader of acknowledgements has ended
	byeSaid  atomic.Bool
	written  counters

	tamper func(head *[headerSize]byte) // tests spoil frames with it
}

func newStream(s *Session, number int, conn *pageConn, o *DialOptions) *Stream {
	st := &Stream{
		session:  s,
		number:   number,
		flow:     flow{window: uint64(o.Window), active: &s.active},
		observe:  newObserver(o.Compression, o.Streams, o.Window),
		gate:     make(chan struct{}, 1),
		conn:     conn,
		kick:     make(chan struct{}, 1),
		readDone: make(chan struct{}),
	}
	st.observe.ask, st.observe.idle, st.observe.shares, st.observe.number = conn.socket, s.idle, s.shares, number
	st.batch.table = make([]byte, 0, maxTable)
	conn.batchWrites()
	st.gate <- struct{}{}
	return st
}

// Pages sends whole pages, up to MaxData bytes, from vaddr on.
func (s *Stream) Pages(space pagestream.Space, vaddr uint64, data []byte) error {
	one := [1]pagestream.Range{{Start: vaddr, Pages: uint64(len(data)) / pagestream.PageSize}}
	return s.Runs(space, one[:], data)
}

// Runs sends scattered runs of pages; data is their contents one after the
// other, up to MaxData bytes. Pages of zeros are found and sent as such. One
// frame carries many runs: handing over thousands of single pages costs
// little more than one long run.
func (s *Stream) Runs(space pagestream.Space, runs []pagestream.Range, data []byte) error {
	if err := checkRuns(space, runs, len(data)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch.reset()
	at := 0
	for _, r := range runs {
		for r.Pages > 0 {
			pages, zero := nextKind(data[at : at+int(r.Bytes())])
			if err := s.add(space, run{pagestream.Range{Start: r.Start, Pages: pages}, zero}, data, at); err != nil {
				return err
			}
			at += int(pages * pagestream.PageSize)
			r.Start += pages * pagestream.PageSize
			r.Pages -= pages
		}
	}
	return s.sendBatch(space, data)
}

func checkRuns(space pagestream.Space, runs []pagestream.Range, size int) error {
	if size > MaxData {
		return fmt.Errorf("%d bytes of pages in one call, at most %d are allowed", size, MaxData)
	}
	if err := space.Valid(); err != nil {
		return err
	}
	left := uint64(size)
	for _, r := range runs {
		if err := r.Valid(); err != nil {
			return err
		}
		if r.Bytes() > left {
			return fmt.Errorf("runs of more pages than their %d bytes of data", size)
		}
		left -= r.Bytes()
	}
	if left > 0 {
		return fmt.Errorf("runs end %d bytes before their %d bytes of data", left, size)
	}
	return nil
}

// Zero makes pages zero at the receiver, any number of them.
func (s *Stream) Zero(space pagestream.Space, vaddr, pages uint64) error {
	one := [1]pagestream.Range{{Start: vaddr, Pages: pages}}
	return s.ZeroRuns(space, one[:])
}

// ZeroRuns makes runs of pages zero at the receiver, 1,023 runs in a frame.
func (s *Stream) ZeroRuns(space pagestream.Space, runs []pagestream.Range) error {
	if err := space.Valid(); err != nil {
		return err
	}
	for _, r := range runs {
		if err := r.Valid(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch.reset()
	for _, r := range runs {
		if err := s.add(space, run{r, true}, nil, 0); err != nil {
			return err
		}
	}
	return s.sendBatch(space, nil)
}

// add puts a run into the batch, sending the batch first if it is full.
func (s *Stream) add(space pagestream.Space, r run, data []byte, at int) error {
	if s.batch.full() {
		if err := s.sendBatch(space, data); err != nil {
			return err
		}
	}
	s.batch.add(r, at)
	return nil
}

func (s *Stream) sendBatch(space pagestream.Space, data []byte) error {
	b := &s.batch
	b.closeTable()
	defer b.reset()
	if b.runs() == 0 {
		return nil
	}
	s.pieces = s.pieces[:0]
	for _, span := range b.spans {
		s.pieces = append(s.pieces, data[span.from:span.to])
	}
	h := header{kind: framePages, space: space, runs: b.runs(), raw: b.raw}
	err := s.send(h, b.table, s.pieces)
	clear(s.pieces[:cap(s.pieces)]) // they point to the caller's memory
	if err == nil {
		s.written.pages.Add(uint64(b.raw) / pagestream.PageSize)
		s.written.zeroPages.Add(b.zeros)
	}
	return err
}

// Blob sends up to MaxBlob bytes, possibly none, to a channel. What channels
// mean is between the two users of the session.
func (s *Stream) Blob(channel uint32, payload []byte) error {
	if len(payload) > MaxBlob {
		return fmt.Errorf("blob of %d bytes, at most %d are allowed", len(payload), MaxBlob)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var body [][]byte
	if len(payload) > 0 {
		s.pieces = append(s.pieces[:0], payload)
		body = s.pieces
	}
	err := s.send(header{kind: frameBlob, channel: channel, raw: uint32(len(payload))}, nil, body)
	clear(s.pieces[:cap(s.pieces)])
	if err == nil {
		s.written.blobs.Add(1)
		s.written.blobBytes.Add(uint64(len(payload)))
	}
	return err
}

// send compresses a frame's body if that is worth it, waits until there is
// room for it, and writes it. s.mu is held.
func (s *Stream) send(h header, table []byte, body [][]byte) error {
	if err := s.session.Err(); err != nil {
		return err
	}
	start := time.Now()
	s.session.active.begin(start)
	defer func() { s.session.active.end(time.Now()) }()
	h.body = h.raw
	// The processor's time is told of threads.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t := transmission{raw: uint64(h.raw)}
	if err := s.compress(&h, &body, &t); err != nil {
		return s.session.fail(err)
	}
	t.wire = h.wireSize()
	waitStart := time.Now()
	held, limited, err := s.waitForRoom(t.wire, waitStart)
	if err != nil {
		return err
	}
	t.waited, t.limited = time.Since(waitStart)-held, limited
	if err := s.lock(context.Background()); err != nil {
		return err
	}
	before, watch := s.conn.out, startWatch()
	err = s.write(&h, table, body)
	t.sealing, t.kernel = watch.stop(), s.conn.out
	t.kernel.sub(before)
	t.sealing.sub(t.kernel)
	pending := s.conn.pending()
	s.unlock()
	if err != nil {
		return s.writeFailed(err)
	}
	if pending {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
	t.end = time.Now()
	t.total = t.end.Sub(start) - held
	s.observe.transmitted(t)
	s.written.raw.Add(uint64(h.raw))
	s.written.writing.Add(int64(t.kernel.wall))
	if h.raw > 0 && h.kind != frameDeltas {
		s.written.frames[h.codec].Add(1)
	}
	return nil
}

// lock takes the right to write to the connection.
func (s *Stream) lock(ctx context.Context) error {
	select {
	case <-s.gate:
		return nil
	case <-s.session.done:
		return s.session.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Stream) unlock() { s.gate <- struct{}{} }

// write puts a frame into the connection's buffers. The gate is held.
func (s *Stream) write(h *header, table []byte, body [][]byte) error {
	if s.ended {
		return ErrClosed
	}
	var head [headerSize]byte
	h.encode(&head)
	binary.LittleEndian.PutUint64(head[sumOffset:], checksum(&head, table, body, &s.hasher))
	if s.tamper != nil {
		s.tamper(&head)
	}
	s.flow.add(h.wireSize(), time.Now())
	s.written.wire.Add(h.wireSize())
	if err := s.conn.put(head[:]); err != nil {
		return err
	}
	if err := s.conn.put(table); err != nil {
		return err
	}
	for _, piece := range body {
		if err := s.conn.put(piece); err != nil {
			return err
		}
	}
	return nil
}

// mark writes a frame that is acknowledged at once, with everything before
// it, and returns the sum of bytes up to its end.
func (s *Stream) mark(ctx context.Context, kind frameType) (uint64, error) {
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	err := s.write(&header{kind: kind}, nil, nil)
	if kind == frameBye && err == nil {
		s.ended = true
		s.byeSaid.Store(true)
	}
	if err == nil {
		err = s.conn.flush()
	}
	end := s.flow.end()
	s.unlock()
	if err != nil {
		return 0, s.writeFailed(err)
	}
	return end, nil
}

// writeFailed ends the session. A peer that gives up says why before it goes,
// so the reader has the better error if it finds one.
func (s *Stream) writeFailed(err error) error {
	if errors.Is(err, ErrClosed) {
		return err
	}
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-s.readDone:
	case <-s.session.done:
	case <-timer.C:
	}
	return s.session.fail(fmt.Errorf("peer %s: stream %d: connection lost: %w", s.session.peer, s.number, err))
}

// tend writes out what has lain in the buffers, and a barrier when nothing
// else has been acknowledged for a while: it keeps the stream alive and shows
// a peer that is not.
func (s *Stream) tend(keepAlive time.Duration) {
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	stored := uint64(0)
	for {
		select {
		case <-s.session.done:
			return
		case <-s.kick:
			if !s.flushLater() {
				return
			}
		case <-ticker.C:
			if now := s.flow.delivered(); now != stored {
				stored = now
				continue
			}
			if _, err := s.mark(context.Background(), frameBarrier); err != nil && !errors.Is(err, ErrClosed) {
				return
			}
		}
	}
}

// flushLater writes out the buffers after linger; false: the session ended.
func (s *Stream) flushLater() bool {
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.session.done:
		return false
	}
	if s.lock(context.Background()) != nil {
		return false
	}
	err := s.conn.flush()
	s.unlock()
	if err != nil {
		s.writeFailed(err)
		return false
	}
	return true
}

// unexpected turns the end of a stream where none should be into an error
// that says so.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
