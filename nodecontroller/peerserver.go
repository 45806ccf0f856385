package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/pagestream/wire"
)

// servePeers serves the control connections of peers until l is closed.
func (d *Daemon) servePeers(ctx context.Context, l net.Listener) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept peers: %w", err)
		}
		connections.Go(func() { d.servePeer(ctx, conn) })
	}
}

// servePeer serves one connection, with a server of its own: ttrpc gives a
// handler no way to learn whose connection a call came by.
func (d *Daemon) servePeer(ctx context.Context, conn net.Conn) {
	p := &peerServer{d: d, peer: wire.PeerName(conn)}
	defer p.lost()
	server, err := ttrpc.NewServer()
	if err != nil {
		d.log.Error("serve peer", "peer", p.peer, "error", err)
		conn.Close()
		return
	}
	peerv1.RegisterPeerService(server, p)
	l := newOneListener(conn)
	stop := context.AfterFunc(ctx, func() { l.Close(); conn.Close() })
	defer stop()
	_ = server.Serve(ctx, l) // ends when the connection does
	server.Close()
}

// oneListener yields one connection, and ends when that ends.
type oneListener struct {
	first chan net.Conn
	over  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func newOneListener(conn net.Conn) *oneListener {
	l := &oneListener{first: make(chan net.Conn, 1), over: make(chan struct{}), addr: conn.LocalAddr()}
	l.first <- &watchedConn{Conn: conn, closed: func() { l.Close() }}
	return l
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.first:
		return conn, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.over) })
	return nil
}

func (l *oneListener) Addr() net.Addr { return l.addr }

// watchedConn says when it is closed.
type watchedConn struct {
	net.Conn
	closed func()
}

func (c *watchedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// peerServer answers one peer's calls.
type peerServer struct {
	d    *Daemon
	peer string // the name in its certificate

	mu    sync.Mutex
	drove []*incoming // migrations prepared over this connection, guarded by mu
}

// lost tells the migrations that their source's connection ended.
func (p *peerServer) lost() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.drove {
		m.lost()
	}
}

// migration returns a migration of which the peer is the source. To any other
// peer it does not exist. The error is as unserved has it.
func (p *peerServer) migration(id string) (*incoming, error) {
	p.d.mu.Lock()
	m := p.d.incoming[id]
	p.d.mu.Unlock()
	if m == nil || m.current().Peer != p.peer {
		return nil, answer(p.d.unserved(id, p.peer))
	}
	return m, nil
}

func (p *peerServer) Describe(ctx context.Context, _ *peerv1.DescribeRequest) (*peerv1.DescribeResponse, error) {
	available, err := availableMemory()
	if err != nil {
		return nil, answer(err)
	}
	free := available
	if limit := uint64(p.d.config.StoreLimit); limit > 0 {
		p.d.mu.Lock()
		free = min(free, limit-min(limit, p.d.reserved()))
		p.d.mu.Unlock()
	}
	return &peerv1.DescribeResponse{Node: p.d.self(ctx), StoreFree: free}, nil
}

func (p *peerServer) Prepare(ctx context.Context, req *peerv1.PrepareRequest) (*peerv1.PrepareResponse, error) {
	m, err := p.d.admitMigration(ctx, req, p.peer)
	if err != nil {
		return nil, answer(err)
	}
	p.mu.Lock()
	p.drove = append(p.drove, m)
	p.mu.Unlock()
	r := &peerv1.PrepareResponse{Node: p.d.self(ctx), Boot: p.d.journal.boot, ComparesDump: req.CompareDump}
	err = m.step(ctx, destinationPreparing, func(ctx context.Context) (err error) {
		r.MissingImages, err = m.prepare(ctx)
		return err
	})
	return r, err
}

func (p *peerServer) PutImage(_ context.Context, req *peerv1.PutImageRequest) (*peerv1.PutImageResponse, error) {
	m, err := p.migration(req.Migration)
	if err != nil {
		return nil, err
	}
	return &peerv1.PutImageResponse{}, answer(m.putImage(req.Image, req.Offset, req.Data))
}

func (p *peerServer) ImportImage(ctx context.Context, req *peerv1.ImportImageRequest) (*peerv1.ImportImageResponse, error) {
	m, err := p.migration(req.Migration)
	if err != nil {
		return nil, err
	}
	return &peerv1.ImportImageResponse{}, m.step(ctx, m.making(), func(ctx context.Context) error {
		return m.importImage(ctx, req.Image, req.Size)
	})
}

func (p *peerServer) Create(ctx context.Context, req *peerv1.CreateRequest) (*peerv1.CreateResponse, error) {
	m, err := p.migration(req.Migration)
	if err != nil {
		return nil, err
	}
	var r *peerv1.CreateResponse
	err = m.step(ctx, m.making(), func(ctx context.Context) (err error) {
		r, err = m.create(ctx)
		return err
	})
	return r, err
}

func (p *peerServer) Restore(ctx context.Context, req *peerv1.RestoreRequest) (*peerv1.RestoreResponse, error) {
	m, err := p.migration(req.Migration)
	if err != nil {
		return nil, err
	}
	var r *peerv1.RestoreResponse
	err = m.step(ctx, destinationParked, func(ctx context.Context) (err error) {
		r, err = m.restore(ctx, boundedReconnect(req.ReconnectMs))
		return err
	})
	return r, err
}

func (p *peerServer) Approach(ctx context.Context, req *peerv1.ApproachRequest) (*peerv1.ApproachResponse, error) {
	m, err := p.migration(req.Migration)
	if err != nil {
		return nil, err
	}
	r := &peerv1.ApproachResponse{}
	err = m.step(ctx, destinationParked, func(ctx context.Context) error {
		ahead, err := m.approach(ctx, req)
		if err != nil {
			r.Trouble = err.Error()
		}
		r.FillsTmpfs, r.TmpfsFilled, r.InNamespaces = ahead.fillsTmpfs, ahead.tmpfsFilled, ahead.inNamespaces
		return nil
	})
	return r, err
}

func (p *peerServer) Commit(ctx context.Context, req *peerv1.CommitRequest) (*peerv1.CommitResponse, error) {
	m, err := p.migration(req.Migration)
	if err != nil {
		if lost := p.d.lostWith(req, p.peer); lost != nil {
			err = answer(lost)
		}
		return nil, err
	}
	r, err := m.commitWithin(ctx, time.Duration(req.WaitMs)*time.Millisecond)
	return r, answer(err)
}

func (p *peerServer) Seal(ctx context.Context, req *peerv1.SealRequest) (*peerv1.SealResponse, error) {
	m, err := p.migration(req.Migration)
	if err != nil {
		return nil, err
	}
	var r *peerv1.SealResponse
	err = m.step(ctx, destinationPrepared, func(ctx context.Context) (err error) {
		r, err = m.keepAll(ctx)
		return err
	})
	return r, err
}

func (p *peerServer) Abort(ctx context.Context, req *peerv1.AbortRequest) (*peerv1.AbortResponse, error) {
	m, err := p.migration(req.Migration)
	if isCode(err, errdefs.IsNotFound) {
		return &peerv1.AbortResponse{}, nil // nothing of it is here
	}
	if err != nil {
		return nil, err
	}
	return &peerv1.AbortResponse{}, answer(m.drop(ctx, req.Reason))
}

func (p *peerServer) Ping(ctx context.Context, req *peerv1.PingRequest) (*peerv1.PingResponse, error) {
	m, err := p.migration(req.Migration)
	if err != nil {
		// A source that has not heard why may want to say so.
		if gone, dropped := p.d.dropped(req.Migration); dropped && gone.From == p.peer {
			return &peerv1.PingResponse{Error: gone.Detail}, nil
		}
		return nil, err
	}
	return m.ping(ctx), nil
}

func (p *peerServer) Outcome(_ context.Context, req *peerv1.OutcomeRequest) (*peerv1.OutcomeResponse, error) {
	return &peerv1.OutcomeResponse{Outcome: p.d.outcome(req.Migration, p.peer)}, nil
}

// admit is asked by package wire about each session: only the source of a
// migration that waits for memory, with the secret of that migration, may write.
func (d *Daemon) admit(hello wire.Hello, peer string) (wire.Receiver, error) {
	d.mu.Lock()
	m := d.incoming[hello.Migration]
	d.mu.Unlock()
	if m == nil || m.current().Peer != peer || !hello.TokenIs(m.token) {
		return nil, fmt.Errorf("node %s expects no such migration of %s", d.config.NodeName, peer)
	}
	if s := m.stage(); s != destinationPrepared && s != destinationParked || m.alive.Err() != nil {
		return nil, fmt.Errorf("migration %s takes no memory now: it is at %s", m.id, s)
	}
	return m.receiver, nil
}
