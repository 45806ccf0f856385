package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// Limits are what a listener allows; a zero field means its default.
type Limits struct {
	// HalfOpen is how many connections may be in the handshake, default 64.
	HalfOpen int
	// Sessions is how many sessions there may be at once, default 64.
	Sessions int
	// Handshake is how long a connection may take to say who it is and what
	// it wants, and a session to bring all its streams; default 10 s.
	Handshake time.Duration
	// Silence is how long at least a stream may be silent before its sender
	// counts as gone. A sender that announces a slower keepalive gets four
	// times that. Default 10 s.
	Silence time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.HalfOpen == 0 {
		l.HalfOpen = 64
	}
	if l.Sessions == 0 {
		l.Sessions = 64
	}
	if l.Handshake == 0 {
		l.Handshake = 10 * time.Second
	}
	if l.Silence == 0 {
		l.Silence = 10 * time.Second
	}
	return l
}

// Option changes a listener.
type Option func(*Listener)

// WithLimits sets the listener's limits.
func WithLimits(limits Limits) Option { return func(l *Listener) { l.limits = limits.withDefaults() } }

// WithLogger sets where refused connections are logged, slog's default
// otherwise.
func WithLogger(log *slog.Logger) Option { return func(l *Listener) { l.log = log } }

// Admit decides whether a session may come in and who stores what it brings.
// peer is the node name from the peer's certificate; the hello is within
// bounds, its token is not compared yet. An error's text goes to the peer in
// clear. It is called once for each session, from several goroutines.
type Admit func(hello Hello, peer string) (Receiver, error)

// Listener takes the connections of a node's port.
type Listener struct {
	tcp     net.Listener
	closing sync.Once // of tcp: who closes it when somebody else does waits until that is done, so that the port is free
	creds   *Credentials
	control *controlListener
	demand  *controlListener
	limits  Limits
	log     *slog.Logger
	pending *halfOpen

	mu       sync.Mutex // guards what follows
	sessions map[sessionKey]*inbound
	serving  bool
	closed   bool
	owned    sync.WaitGroup // connections and the accept loop; added to under mu
}

// Listen opens a node's port. Nothing is accepted before Serve is called.
func Listen(addr string, creds *Credentials, options ...Option) (*Listener, error) {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	l := &Listener{
		tcp:      tcp,
		creds:    creds,
		control:  newControlListener(tcp.Addr()),
		demand:   newControlListener(tcp.Addr()),
		limits:   Limits{}.withDefaults(),
		log:      slog.Default(),
		sessions: make(map[sessionKey]*inbound),
	}
	for _, option := range options {
		option(l)
	}
	l.pending = &halfOpen{max: l.limits.HalfOpen}
	return l, nil
}

// Addr is the address that the listener is bound to.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Control yields the control connections, for a server of their messages;
// PeerName says whose each is. They are accepted while Serve runs, and belong
// to whoever accepted them. Closing it turns away further ones; page streams
// go on.
func (l *Listener) Control() net.Listener { return l.control }

// Demand yields the connections of package demand, as Control does its own.
func (l *Listener) Demand() net.Listener { return l.demand }

// Serve accepts connections until Close is called or ctx ends; then it ends
// all sessions with ErrShutdown, waits for their goroutines and returns nil. The port is free then.
// It returns an error if the port fails. It is called once.
func (l *Listener) Serve(ctx context.Context, admit Admit) error {
	l.mu.Lock()
	if l.closed || l.serving {
		l.mu.Unlock()
		return fmt.Errorf("serve: %w", net.ErrClosed)
	}
	l.serving = true
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, l.shut)
	defer stop()
	defer l.Close()
	for {
		conn, err := l.tcp.Accept()
		if err != nil {
			if l.isClosed() {
				return nil
			}
			if transient(err) {
				// Out of descriptors or memory: others must end first.
				l.log.Error("cannot accept a peer's connection", "error", err)
				pause(ctx, 100*time.Millisecond)
				continue
			}
			return fmt.Errorf("accept peers: %w", err)
		}
		l.start(conn.(*net.TCPConn), admit)
	}
}

// transient says whether Accept may work again later: the process or the
// machine is short of something, or a peer was gone before it was accepted.
func transient(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Close closes the port and ends all sessions with ErrShutdown. It waits for
// the listener's goroutines, and so for Receivers' calls: it must not be
// called from one.
func (l *Listener) Close() error {
	l.shut()
	l.owned.Wait()
	return nil
}

func (l *Listener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// shut closes everything and does not wait.
func (l *Listener) shut() {
	l.mu.Lock()
	l.closed = true
	var open []*inbound
	for _, in := range l.sessions {
		open = append(open, in)
	}
	l.mu.Unlock()
	l.closing.Do(func() { l.tcp.Close() })
	l.control.Close()
	l.demand.Close()
	l.pending.closeAll()
	for _, in := range open {
		in.fail(ErrShutdown)
	}
}

// start handles a connection in a goroutine of its own.
func (l *Listener) start(conn *net.TCPConn, admit Admit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		conn.Close()
		return
	}
	known := l.pending.add(conn)
	l.owned.Go(func() {
		defer known()
		if err := l.handle(conn, admit, known); err != nil {
			l.log.Warn("connection refused", "from", conn.RemoteAddr().String(), "error", err)
			conn.Close()
		}
	})
}

// handle makes out who is there and what it wants, and serves a page stream
// to its end. known is called once the connection is no longer half-open. An
// error means that the connection came to nothing.
func (l *Listener) handle(tcp *net.TCPConn, admit Admit, known func()) error {
	tcp.SetDeadline(time.Now().Add(l.limits.Handshake))
	batch := &batchConn{TCPConn: tcp, handover: true}
	var secrets trafficSecrets
	conn := tls.Server(batch, l.creds.serverConfig(&secrets))
	if err := conn.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	state := conn.ConnectionState()
	peer := PeerName(conn)
	switch state.NegotiatedProtocol {
	case ALPNControl, ALPNDemand:
		known()
		batch.handover = false
		tcp.SetDeadline(time.Time{})
		to := l.control
		if state.NegotiatedProtocol == ALPNDemand {
			to = l.demand
		}
		if !to.offer(conn, l.limits.Handshake) {
			return fmt.Errorf("connection of %s for %s: nobody takes it", peer, state.NegotiatedProtocol)
		}
		return nil
	case ALPNPages:
		page, err := newPageConn(conn, batch, &secrets, false)
		if err != nil {
			return fmt.Errorf("stream of %s: %w", peer, err)
		}
		return l.stream(page, peer, admit, known)
	}
	return fmt.Errorf("%s offers no protocol of ours (%s, %s): %w", peer, ALPNPages, ALPNControl, ErrProtocol)
}

// stream takes a page stream's hello, answers it, and receives until the
// stream ends.
func (l *Listener) stream(conn *pageConn, peer string, admit Admit, known func()) error {
	b, err := readGreeting(conn, helloMagic)
	if err != nil {
		return fmt.Errorf("hello of %s: %w", peer, unexpected(err))
	}
	known()
	local := thisNode(l.creds.Node())
	answer := welcome{minVersion: local.minVersion, maxVersion: local.maxVersion, features: local.features, pageSize: local.pageSize}
	hello, in, err := l.join(b, local, peer, admit, conn, &answer)
	if err != nil {
		answer.refused, answer.text = true, err.Error()
		if _, werr := conn.Write(answer.encode()); werr == nil {
			hangUp(conn)
		}
		return fmt.Errorf("stream of %s: %w", peer, err)
	}
	conn.features = answer.features
	_, err = conn.Write(answer.encode())
	conn.batch.SetDeadline(time.Time{})
	in.serve(&hello, conn, err)
	return nil
}

// join compares a hello with this node and finds or makes its session. The
// connection is a stream of it afterwards.
func (l *Listener) join(b []byte, local speaker, peer string, admit Admit, conn *pageConn, answer *welcome) (Hello, *inbound, error) {
	hello, err := decodeHello(b)
	if err != nil {
		return hello, nil, err
	}
	// Another version's bounds may be others: what does not match is said
	// before what is out of bounds.
	version, both, err := negotiate(hello.speaker(peer), local)
	if err != nil {
		return hello, nil, err
	}
	if err := hello.check(); err != nil {
		return hello, nil, fmt.Errorf("hello: %w: %w", err, ErrProtocol)
	}
	in, err := l.admitted(&hello, peer, admit)
	if err != nil {
		return hello, nil, err
	}
	if err := in.join(&hello, conn); err != nil {
		in.endIfLast() // it may have failed before any stream joined
		return hello, nil, err
	}
	answer.version, answer.features = version, both
	return hello, in, nil
}
