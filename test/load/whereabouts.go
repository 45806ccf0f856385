package load

import (
	"cmp"
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"godwit.dev/godwit/test/pace"
)

// whereabouts are the addresses at which a server may be: one that is moved is at another in the end.
type whereabouts struct {
	greet func(net.Conn) error // asks whether it is there, and not frozen

	places *places
}

// places is what whereabouts share with those who look for the server.
type places struct {
	mu        sync.Mutex
	addresses []string
	moved     chan struct{} // closed when addresses change
	patience  time.Duration // 0: the usual
}

// serverAt is a server at address, host:port, that answers to greet.
func serverAt(address string, greet func(net.Conn) error) whereabouts {
	return whereabouts{greet: greet, places: &places{addresses: []string{address}, moved: make(chan struct{})}}
}

// AlsoAt adds an address at which the server may appear.
func (w whereabouts) AlsoAt(address string) {
	w.places.change(func(known []string) []string { return append(slices.Clone(known), address) })
}

// OnlyAt replaces all addresses by one, where the server is for the time being.
func (w whereabouts) OnlyAt(address string) {
	w.places.change(func([]string) []string { return []string{address} })
}

// GiveUpAfter says how long one answer is waited for until the server is looked for at all addresses again, and one connection until it
// is tried again; usually it is replyTimeout and dialTimeout. A server that was moved is found no sooner if it is still frozen where it was,
// as that resets no connection. The first answer on a connection keeps its time: it takes long while memory is fetched.
func (w whereabouts) GiveUpAfter(d time.Duration) {
	w.places.mu.Lock()
	defer w.places.mu.Unlock()
	w.places.patience = d
}

// limit is how long an answer is waited for, if nobody said otherwise for so long as usual.
func (w whereabouts) limit(usual time.Duration) time.Duration {
	w.places.mu.Lock()
	defer w.places.mu.Unlock()
	return cmp.Or(w.places.patience, usual)
}

// last is the address that was told last.
func (w whereabouts) last() string {
	known, _ := w.places.known()
	return known[len(known)-1]
}

// change has who looks for the server look at the new addresses.
func (p *places) change(to func([]string) []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addresses = to(p.addresses)
	close(p.moved)
	p.moved = make(chan struct{})
}

// known returns the addresses, and what is closed when they change.
func (p *places) known() (addresses []string, moved <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addresses, p.moved
}

// dialAny connects to whichever address answers first. All are tried at the same
// time: one that does not answer must not hold up the others.
func (w whereabouts) dialAny(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := w.dialKnown(ctx)
		if conn != nil || err != nil {
			return conn, err
		}
	}
}

// dialKnown does dialAny as long as no other address is told of; then it returns
// nothing.
func (w whereabouts) dialKnown(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	answered := make(chan net.Conn)
	var dialers sync.WaitGroup
	defer dialers.Wait()
	defer cancel()
	addresses, moved := w.places.known()
	for _, address := range addresses {
		dialers.Go(func() {
			conn := w.dialUntilAnswer(ctx, address)
			if conn == nil {
				return
			}
			select {
			case answered <- conn:
			case <-ctx.Done():
				conn.Close()
			}
		})
	}
	select {
	case conn := <-answered:
		return conn, nil
	case <-moved:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// retryPause is how long an address that refuses is left alone. Where everything
// is slow, asking as often would take a processor from what is asked for.
const retryPause = time.Millisecond

// dialTimeout is how long a server may take to accept a connection, and then to
// answer on it.
const dialTimeout = time.Second

// dialUntilAnswer tries one address until it answers; nil when ctx ended first.
func (w whereabouts) dialUntilAnswer(ctx context.Context, address string) net.Conn {
	for ctx.Err() == nil {
		usual := pace.Stretch(dialTimeout)
		conn, err := (&net.Dialer{Timeout: w.limit(usual)}).DialContext(ctx, "tcp", address)
		if err == nil {
			conn.SetDeadline(time.Now().Add(usual))
			stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
			err = w.greet(conn)
			if stop() && err == nil {
				conn.SetDeadline(time.Time{})
				return conn
			}
			conn.Close()
		}
		select {
		case <-time.After(pace.Stretch(retryPause)):
		case <-ctx.Done():
		}
	}
	return nil
}
