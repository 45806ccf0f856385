package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/demand"
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// Pages that were left at the source when a pod was cut over are fetched by the fault server
// of each of its containers. The source's shim makes the connections, to this node's one
// port: the daemon sees who is there and passes the bytes on. It keeps nothing of them, so
// that its restart costs no more than a connection, which is made again.

// maxFetching is how many connections of that kind there may be at once.
const maxFetching = 256

// serveDemand takes them until ctx ends.
func (d *Daemon) serveDemand(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var connections sync.WaitGroup
	defer connections.Wait()
	room := make(chan struct{}, maxFetching)
	for {
		conn, err := l.Accept()
		if err != nil {
			return ignoreClosed(err)
		}
		select {
		case room <- struct{}{}:
		default:
			d.log.Warn("too many connections for missing pages", "limit", maxFetching)
			conn.Close()
			continue
		}
		connections.Go(func() {
			defer func() { <-room }()
			d.passOn(ctx, conn)
		})
	}
}

// passOn joins a connection of a source to the fault server that it is for.
func (d *Daemon) passOn(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	conn.SetDeadline(time.Now().Add(demand.Silence))
	hello, err := demand.ReadHello(conn)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return // only to see whether one is taken
	}
	var server net.Conn
	if err == nil {
		server, err = d.faultServer(ctx, hello, wire.PeerName(conn))
	}
	if err != nil {
		d.log.Debug("missing pages are not taken", "from", wire.PeerName(conn), "error", err)
		_ = demand.WriteWelcome(conn, err.Error())
		return
	}
	defer server.Close()
	if _, err := server.Write(hello.Encode()); err != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	join(conn, server)
}

// join copies both ways until either side has ended.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			defer a.Close()
			defer b.Close()
			_, _ = io.Copy(way[0], way[1])
		})
	}
	both.Wait()
}

// faultServer connects to the fault server that a hello is for: of a migration whose source
// the peer is.
func (d *Daemon) faultServer(ctx context.Context, h demand.Hello, peer string) (net.Conn, error) {
	d.mu.Lock()
	m := d.incoming[h.Migration]
	d.mu.Unlock()
	if m == nil || m.current().Peer != peer || h.Container >= pagestream.MaxContainers {
		return nil, fmt.Errorf("no migration %s from node %s fetches pages here", h.Migration, peer)
	}
	path := shimv1.FetchSocket(m.storeDir, uint16(h.Container))
	// The path may be longer than an address can be.
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errNotFetching
	}
	defer unix.Close(dir)
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
	if err != nil {
		return nil, errNotFetching
	}
	return conn, nil
}

// maxReconnect is the longest that a source may ask a destination to wait for it, milliseconds.
const maxReconnect = uint64(time.Hour / time.Millisecond)

func boundedReconnect(ms uint64) uint64 { return min(ms, maxReconnect) }

// errNotFetching: nobody asks for the pages of a container, or not yet.
var errNotFetching = errors.New("nobody waits for the container's pages now")

// errPagesLost: the destination runs a pod of which pages are missing for good.
var errPagesLost = errors.New("pages that were left at the source cannot be fetched any more, the pod is lost")

// awaitFetched returns when the source's shim is needed no more: the destination has
// fetched everything that was left here, or never will. tell is told how far it is. A shim
// that dies without having said so has lost what was missing when it was last heard of.
func (d *Daemon) awaitFetched(ctx context.Context, r record, tell func(*shimv1.Progress)) error {
	if r.Left == 0 {
		return nil
	}
	missing := r.Left
	for {
		last, err := d.followFetch(ctx, r, tell)
		if last != nil {
			missing = last.MissingPages
			switch {
			case last.Lost != "":
				return fmt.Errorf("%w: %s", errPagesLost, last.Lost)
			case !last.Fetching:
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if shim, aerr := d.askShim(ctx, r.Sandbox, r.Migration); aerr == nil && shim != shimCommitted {
			if missing == 0 {
				return nil // it had given all of it
			}
			return fmt.Errorf("%w: its shim died with %d pages missing: %w", errPagesLost, missing, plain(err))
		}
		if err := pause(ctx, askAgain); err != nil {
			return err
		}
	}
}

// removeLost removes a pod from its destination whose pages are missing for good: its
// processes are dead. One that kubelet made is kubelet's.
func (m *incoming) removeLost(ctx context.Context, why error) {
	m.say(why.Error())
	r := m.current()
	if r.Kubelet {
		return
	}
	m.until(ctx, func() error { return m.d.cri.Remove(ctx, r.Sandbox) })
}

// followFetch watches the source's shim; it returns what that said last.
func (d *Daemon) followFetch(ctx context.Context, r record, tell func(*shimv1.Progress)) (last *shimv1.Progress, err error) {
	s, err := d.dialShim(ctx, r.Sandbox)
	if err != nil {
		return nil, err
	}
	defer s.close()
	stream, err := s.Watch(ctx, &shimv1.WatchRequest{Migration: r.Migration, IntervalMs: watchInterval})
	if err != nil {
		return nil, err
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			return last, err
		}
		last = p
		tell(p)
		if p.State != shimv1.State_STATE_COMMITTED || !p.Fetching {
			return last, nil
		}
	}
}

// finishFetching waits until the destination has fetched what was left here. After an error
// the migration has ended.
func (m *outgoing) finishFetching(ctx context.Context) error {
	if m.current().Left == 0 {
		return nil
	}
	err := m.d.awaitFetched(ctx, m.current(), m.noteFetching)
	m.use.leave()
	switch {
	case err == nil:
		m.noteLeft(0, throughReboot)
		m.tell("fetched", m.request.To+" has everything that was left here")
		return nil
	case errors.Is(err, errPagesLost):
		if rerr := m.d.removeSource(ctx, m.current(), m.orchestrator, m.log); rerr != nil {
			err = errors.Join(err, rerr)
		}
		m.move(nodev1.Phase_PHASE_FAILED, "lost", err.Error())
		m.close(err)
	default:
		m.close(fmt.Errorf("committed, not finished: %w", err))
	}
	return err
}

// noteLeft has the record say how many pages the destination has yet to fetch.
func (m *outgoing) noteLeft(pages uint64, d durability) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record.Left == pages {
		return
	}
	m.record.Left = pages
	if err := m.d.journal.save(m.record, d); err != nil {
		m.log.Error("how much is left here is not in the journal", "error", err)
	}
}

// noteFetching takes in how far the destination is with what was left here.
func (m *outgoing) noteFetching(p *shimv1.Progress) {
	m.mu.Lock()
	m.progress = progressOf(p)
	m.mu.Unlock()
	m.tell(kindProgress, "")
	m.use.report(usageOf(p, time.Now()))
}

// awaitFetchedAgain is awaitFetched of a migration that an earlier daemon has committed. Its
// part in the division of the link is made anew.
func (d *Daemon) awaitFetchedAgain(ctx context.Context, r record, log *slog.Logger) error {
	if r.Left == 0 {
		return nil
	}
	shim, err := d.dialShim(ctx, r.Sandbox)
	if err != nil {
		return d.awaitFetched(ctx, r, func(*shimv1.Progress) {}) // which finds out what that means
	}
	defer shim.close()
	use := d.link.join(0) // a limit of its own the shim knows
	use.publish()         // whatever the shim was told before
	var telling sync.WaitGroup
	telling.Go(func() { use.tell(ctx, shim, r.Migration, log) })
	defer telling.Wait()
	defer use.leave()
	return d.awaitFetched(ctx, r, func(p *shimv1.Progress) { use.report(usageOf(p, time.Now())) })
}
