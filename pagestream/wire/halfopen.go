package wire

import (
	"container/list"
	"net"
	"sync"
)

// halfOpen bounds the connections that have not shown yet who they are. When
// there are too many the oldest is closed: a peer's handshake takes
// milliseconds, so the oldest is the least likely to be one.
type halfOpen struct {
	max int

	mu    sync.Mutex // guards what follows
	conns list.List  // of net.Conn, oldest first
}

// add takes a connection in; done takes it out again and may be called more
// than once.
func (h *halfOpen) add(conn net.Conn) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns.Len() >= h.max {
		oldest := h.conns.Front()
		h.conns.Remove(oldest)
		oldest.Value.(net.Conn).Close()
	}
	element := h.conns.PushBack(conn)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.conns.Remove(element) // nothing if it is out already
	}
}

func (h *halfOpen) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for e := h.conns.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
}
