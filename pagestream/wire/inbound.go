package wire

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// sessionKey tells sessions apart. A peer cannot come into another peer's.
type sessionKey struct {
	peer    string
	session [16]byte
}

// inbound is the receiving side of a session.
//
// It is admitted by its first stream, then the other streams join it. It ends
// when the last of its streams has left, which all do after their sender's
// goodbye, or at once after the first error. It is forgotten when it has ended
// and no stream can come any more: all have joined, or the time for that is
// over.
type inbound struct {
	listener *Listener
	key      sessionKey
	hello    Hello

	ready    chan struct{} // closed when what follows is set
	receiver Receiver
	refusal  error

	mu      sync.Mutex // guards what follows
	joining *time.Timer
	joined  map[uint16]bool
	streams map[uint16]*pageConn // joined and not left
	err     error                // the first
	ended   bool                 // Closed is called or about to be
}

// admitted returns the session of a hello. A new one is admitted first.
func (l *Listener) admitted(hello *Hello, peer string, admit Admit) (*inbound, error) {
	key := sessionKey{peer, hello.Session}
	l.mu.Lock()
	in := l.sessions[key]
	if in != nil {
		l.mu.Unlock()
		<-in.ready
		return in, in.refusal
	}
	if l.closed || len(l.sessions) >= l.limits.Sessions {
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return nil, ErrShutdown
		}
		return nil, fmt.Errorf("%d sessions are open, the limit: try later", l.limits.Sessions)
	}
	in = &inbound{
		listener: l, key: key, hello: *hello, ready: make(chan struct{}),
		joined: make(map[uint16]bool), streams: make(map[uint16]*pageConn),
	}
	l.sessions[key] = in
	l.mu.Unlock()

	in.receiver, in.refusal = admit(*hello, peer)
	if in.refusal == nil && in.receiver == nil {
		in.refusal = errors.New("no receiver")
	}
	if in.refusal != nil {
		in.forget()
	} else {
		in.mu.Lock()
		in.joining = time.AfterFunc(l.limits.Handshake, in.joinTimeOver)
		in.mu.Unlock()
	}
	close(in.ready)
	if l.isClosed() { // shut may have come before the session was admitted
		in.fail(ErrShutdown)
	}
	return in, in.refusal
}

func (in *inbound) forget() {
	in.listener.mu.Lock()
	defer in.listener.mu.Unlock()
	delete(in.listener.sessions, in.key)
}

// join adds a stream to the session.
func (in *inbound) join(hello *Hello, conn *pageConn) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	h := &in.hello
	switch {
	case in.err != nil:
		return in.err
	case hello.Migration != h.Migration || hello.Streams != h.Streams || !hello.TokenIs(h.Token):
		return fmt.Errorf("stream %d does not fit its session: %w", hello.Stream, ErrProtocol)
	case in.joined[hello.Stream]:
		return fmt.Errorf("stream %d is there already: %w", hello.Stream, ErrProtocol)
	}
	in.joined[hello.Stream] = true
	in.streams[hello.Stream] = conn
	if in.allJoined() {
		in.joining.Stop()
	}
	return nil
}

func (in *inbound) allJoined() bool { return len(in.joined) == int(in.hello.Streams) }

// joinTimeOver ends a session that has not got all its streams in time.
func (in *inbound) joinTimeOver() {
	in.mu.Lock()
	got := len(in.joined)
	in.mu.Unlock()
	if got < int(in.hello.Streams) {
		in.fail(fmt.Errorf("%d of %d streams came within %v", got, in.hello.Streams, in.listener.limits.Handshake))
		in.forget()
		in.endIfLast()
	}
}

// fail ends the session with an error, unless it failed before, and makes its
// streams stop reading.
func (in *inbound) fail(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err != nil {
		return
	}
	in.err = err
	for _, conn := range in.streams {
		conn.batch.stopReading()
	}
}

func (in *inbound) cause() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.err
}

// serve receives on a stream that has joined, until it ends; greeted is the
// error of answering its hello.
func (in *inbound) serve(hello *Hello, conn *pageConn, greeted error) {
	err := greeted
	if err == nil {
		err = newReception(in, hello, conn).run()
	}
	if err != nil {
		in.fail(fmt.Errorf("peer %s: stream %d: %w", in.key.peer, hello.Stream, err))
	}
	cause := in.cause()
	told := cause != nil && tell(conn, in.told(cause))
	in.mu.Lock()
	delete(in.streams, hello.Stream)
	in.mu.Unlock()
	in.endIfLast()
	if told {
		hangUp(conn)
	}
	conn.batch.Close()
}

// told is what the sender hears of an error: not its own name.
func (in *inbound) told(err error) string {
	if rejected := (*receiverError)(nil); errors.As(err, &rejected) {
		return rejected.err.Error()
	}
	return err.Error()
}

// endIfLast tells the receiver of the end when no stream is left.
func (in *inbound) endIfLast() {
	in.mu.Lock()
	over := len(in.streams) == 0 && (in.err != nil || in.allJoined())
	first := over && !in.ended
	in.ended = in.ended || over
	err, complete := in.err, in.allJoined()
	in.mu.Unlock()
	if !first {
		return
	}
	if complete {
		in.forget()
	}
	in.receiver.Closed(err)
}

// tell sends an error's text to the sender.
func tell(conn *pageConn, text string) bool {
	conn.batch.SetWriteDeadline(time.Now().Add(time.Second))
	body := []byte(boundedText(text))
	h := header{kind: frameError, raw: uint32(len(body)), body: uint32(len(body))}
	return writeReply(conn, &h, body) == nil
}

// hangUpTime is how long a peer has to read our last words.
const hangUpTime = 2 * time.Second

// hangUp closes a connection so that the last words arrive: closing with
// bytes unread would reset it, and the peer might lose what it has not read.
// So what still comes is thrown away until the peer hangs up as well.
func hangUp(conn *pageConn) {
	conn.batch.CloseWrite()
	conn.batch.SetReadDeadline(time.Now().Add(hangUpTime))
	for {
		if _, err := conn.batch.TCPConn.Read(conn.in); err != nil {
			break
		}
	}
	conn.batch.Close()
}

var _ net.Conn = (*batchConn)(nil)
