package wire

import (
	"net"
	"sync"
	"time"
)

// maxUnaccepted is how many control connections wait for Accept.
const maxUnaccepted = 16

// controlListener hands out the accepted control connections.
type controlListener struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newControlListener(addr net.Addr) *controlListener {
	return &controlListener{addr: addr, conns: make(chan net.Conn, maxUnaccepted), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *controlListener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that were not accepted yet are
// closed, and so are later ones.
func (l *controlListener) Close() error {
	l.once.Do(func() { close(l.done) })
	for {
		select {
		case conn := <-l.conns:
			conn.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (l *controlListener) Addr() net.Addr { return l.addr }

// offer waits for a place in the queue; false: there was none in time.
func (l *controlListener) offer(conn net.Conn, timeout time.Duration) bool {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case l.conns <- conn:
	case <-l.done:
		return false
	case <-timer.C:
		return false
	}
	select {
	case <-l.done: // Close may have looked before we put it there
		l.Close()
	default:
	}
	return true
}
