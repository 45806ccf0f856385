package wire

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// Defaults of DialOptions.
const (
	DefaultStreams = 4
	DefaultWindow  = 8 << 20
	DefaultTimeout = 10 * time.Second
)

// DialOptions say where a session goes and how.
type DialOptions struct {
	// Address is the peer's host and port.
	Address string
	// ServerName is the peer's node name, which its certificate must carry.
	ServerName string
	// Credentials are this node's.
	Credentials *Credentials
	// Migration and Token are what the peer's admit function decides by.
	Migration string
	Token     [32]byte
	// Streams is the number of parallel streams, 1 to MaxStreams; 0 means
	// DefaultStreams.
	Streams int
	// Compression is Auto unless told otherwise.
	Compression Compression
	// Window is how many bytes of frames may be unacknowledged on a stream,
	// MinWindow to MaxWindow; 0 means DefaultWindow. It bounds the throughput
	// of a stream to Window bytes in a round trip.
	Window int
	// Bandwidth bounds the bytes of frames per second over all streams; 0 is
	// no bound.
	Bandwidth int64
	// Timeout is how long the peer may make no progress while it owes some,
	// before the session ends with ErrHung. 0 means DefaultTimeout.
	Timeout time.Duration
}

func (o DialOptions) withDefaults() (DialOptions, error) {
	if o.Streams == 0 {
		o.Streams = DefaultStreams
	}
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	switch {
	case o.Credentials == nil:
		return o, errors.New("no credentials")
	case o.ServerName == "":
		return o, errors.New("no name of the peer's node")
	case o.Streams < 0 || o.Streams > MaxStreams:
		return o, fmt.Errorf("%d streams, 1 to %d are allowed", o.Streams, MaxStreams)
	case int(o.Compression) >= len(compressionNames):
		return o, fmt.Errorf("unknown %s", o.Compression)
	case o.Window < MinWindow || o.Window > MaxWindow:
		return o, fmt.Errorf("window of %d bytes, %d to %d are allowed", o.Window, MinWindow, MaxWindow)
	case o.Bandwidth < 0 || o.Timeout < 0:
		return o, fmt.Errorf("bandwidth %d, timeout %v: below zero", o.Bandwidth, o.Timeout)
	}
	return o, checkMigration(o.Migration)
}

// Dial opens a session with all its streams. If the peer does not take it,
// the error is a *RefusedError; if the two nodes have no version or page size
// in common it wraps ErrMismatch. ctx is for opening only, which takes at
// most Timeout or DefaultTimeout, whichever is longer: the session ends by
// Close or Abort.
func Dial(ctx context.Context, options DialOptions) (*Session, error) {
	o, err := options.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("dial options: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, max(o.Timeout, DefaultTimeout))
	defer cancel()
	hello := Hello{
		Migration: o.Migration, Token: o.Token, Streams: uint16(o.Streams),
		Window: uint32(o.Window), KeepAlive: keepAlive(o.Timeout),
	}
	rand.Read(hello.Session[:]) // never fails
	conns, err := dialAll(ctx, &o, hello)
	if err != nil {
		return nil, err
	}
	return newSession(&o, conns), nil
}

// dialAll opens the first stream, on which a refusal shows, then the others.
func dialAll(ctx context.Context, o *DialOptions, hello Hello) ([]*pageConn, error) {
	conns := make([]*pageConn, o.Streams)
	dial := func(ctx context.Context, i int) (err error) {
		hello := hello
		hello.Stream = uint16(i)
		conns[i], err = dialStream(ctx, o, hello)
		return err
	}
	err := dial(ctx, 0)
	if err == nil {
		group, ctx := errgroup.WithContext(ctx)
		for i := 1; i < o.Streams; i++ {
			group.Go(func() error { return dial(ctx, i) })
		}
		err = group.Wait()
	}
	if err == nil {
		return conns, nil
	}
	for _, conn := range conns {
		if conn != nil {
			conn.batch.Close()
		}
	}
	return nil, err
}

func dialStream(ctx context.Context, o *DialOptions, hello Hello) (*pageConn, error) {
	var secrets trafficSecrets
	shaken, batch, err := dialTLS(ctx, o.Address, o.ServerName, o.Credentials, ALPNPages, &secrets)
	if err != nil {
		return nil, err
	}
	conn, err := newPageConn(shaken, batch, &secrets, true)
	if err != nil {
		batch.Close()
		return nil, fmt.Errorf("dial peer %s at %s: %w", o.ServerName, o.Address, err)
	}
	stop := context.AfterFunc(ctx, func() { batch.SetDeadline(time.Unix(1, 0)) })
	local := thisNode(o.Credentials.Node())
	conn.features, err = greet(conn, local, o.ServerName, hello)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return conn, nil
	}
	batch.Close()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		return nil, err
	}
	return nil, fmt.Errorf("dial peer %s at %s: %w", o.ServerName, o.Address, err)
}

// greet says hello, reads the answer and returns the features that both sides have.
func greet(conn io.ReadWriter, local speaker, peer string, hello Hello) (uint64, error) {
	hello.MinVersion, hello.MaxVersion = local.minVersion, local.maxVersion
	hello.Features, hello.PageSize = local.features, local.pageSize
	if _, err := conn.Write(hello.encode()); err != nil {
		return 0, err
	}
	b, err := readGreeting(conn, welcomeMagic)
	if err != nil {
		return 0, unexpected(err)
	}
	w, err := decodeWelcome(b)
	if err != nil {
		return 0, err
	}
	remote := speaker{peer, w.minVersion, w.maxVersion, w.features, w.pageSize}
	version, both, err := negotiate(local, remote)
	switch {
	case err != nil:
		return 0, err
	case w.refused:
		return 0, &RefusedError{Peer: peer, Text: w.text}
	case w.version != version || w.features != both:
		return 0, fmt.Errorf("welcome with version %d and features %#x, expected %d and %#x: %w",
			w.version, w.features, version, both, ErrProtocol)
	}
	return both, nil
}

// DialControl opens a control connection to the node serverName at addr. The
// peer's certificate has been verified when it returns. Whether the peer took
// ours shows at the first read: TLS 1.3 ends the handshake before that.
func DialControl(ctx context.Context, addr, serverName string, creds *Credentials) (net.Conn, error) {
	conn, _, err := dialTLS(ctx, addr, serverName, creds, ALPNControl, nil)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// DialDemand opens a connection of package demand, as DialControl does one of its own.
// A peer that does not know of them fails the handshake; the error says so and wraps
// ErrMismatch.
func DialDemand(ctx context.Context, addr, serverName string, creds *Credentials) (net.Conn, error) {
	conn, _, err := dialTLS(ctx, addr, serverName, creds, ALPNDemand, nil)
	var alert tls.AlertError
	if errors.As(err, &alert) && alert == noApplicationProtocol {
		return nil, fmt.Errorf("peer %s cannot fetch missing pages; install the same godwit on both nodes: %w: %w", serverName, ErrMismatch, err)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// noApplicationProtocol is the alert of a peer that knows none of the protocols that were
// offered (RFC 7301, 3.2).
const noApplicationProtocol = 120

// dialTLS shakes hands. With secrets, a pageConn goes on from there.
func dialTLS(ctx context.Context, addr, serverName string, creds *Credentials, protocol string, secrets *trafficSecrets) (*tls.Conn, *batchConn, error) {
	var dialer net.Dialer
	tcp, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, nil, fmt.Errorf("dial peer %s: %w", serverName, err)
	}
	batch := &batchConn{TCPConn: tcp.(*net.TCPConn), handover: secrets != nil}
	config := creds.clientConfig(serverName, protocol)
	if secrets != nil {
		config.KeyLogWriter = secrets
	}
	conn := tls.Client(batch, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		batch.Close()
		return nil, nil, fmt.Errorf("dial peer %s at %s: %w", serverName, addr, err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != protocol {
		batch.Close()
		return nil, nil, fmt.Errorf("dial peer %s at %s: it speaks %q, want %q: %w", serverName, addr, got, protocol, ErrProtocol)
	}
	return conn, batch, nil
}
