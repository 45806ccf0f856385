package wire

import (
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"
)

const (
	// recordSize is the most plaintext in one TLS record (RFC 8446, 5.1).
	recordSize = 16 << 10
	// writeBatch is how much ciphertext goes out in one system call: crypto/tls
	// writes each record on its own, and a call costs as much as the copy of
	// several records.
	writeBatch = 256 << 10
	// readBatch is how much is read in one system call.
	readBatch = 256 << 10
)

// batchConn lies under a tls.Conn. It collects the records that the tls.Conn
// writes and reads many of them with one system call. One goroutine may
// write while another one reads; tls.Conn sees to that.
type batchConn struct {
	*net.TCPConn
	out     []byte        // collected records; nil: writes pass through
	in      []byte        // buffer for reading; nil: reads pass through
	unread  []byte        // the part of in that was not read yet
	idle    time.Duration // a read that gets nothing for so long fails; 0: waits
	outTime time.Duration // time spent in writes
	stopped atomic.Bool   // reads fail, see stopReading
}

// Write implements net.Conn.
func (c *batchConn) Write(p []byte) (int, error) {
	if c.out == nil {
		return c.TCPConn.Write(p)
	}
	if len(c.out)+len(p) > cap(c.out) {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > cap(c.out) {
		return c.TCPConn.Write(p)
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

// flush writes what has been collected.
func (c *batchConn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	start := time.Now()
	_, err := c.TCPConn.Write(c.out)
	c.outTime += time.Since(start)
	c.out = c.out[:0]
	return err
}

// Read implements net.Conn.
func (c *batchConn) Read(p []byte) (int, error) {
	if len(c.unread) == 0 {
		if len(p) >= len(c.in) {
			return c.receive(p)
		}
		n, err := c.receive(c.in)
		if err != nil {
			return 0, err
		}
		c.unread = c.in[:n]
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

func (c *batchConn) receive(p []byte) (int, error) {
	if c.idle > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.idle)); err != nil {
			return 0, err
		}
		// Looked at after the deadline is set: stopReading sets both in the
		// other order, so one of the two is seen.
		if c.stopped.Load() {
			return 0, net.ErrClosed
		}
	}
	return c.TCPConn.Read(p)
}

// stopReading makes the pending and every later read fail.
func (c *batchConn) stopReading() {
	c.stopped.Store(true)
	c.SetReadDeadline(time.Unix(1, 0))
}

// pageConn is a connection of a page stream. Writing is for one goroutine at
// a time, reading for another one.
type pageConn struct {
	*tls.Conn
	batch *batchConn
	plain []byte // plaintext that does not fill a record yet
}

// newPageConn is for a connection whose handshake is over and from whose
// batchConn no more is read than tls.Conn did.
func newPageConn(conn *tls.Conn, batch *batchConn) *pageConn {
	return &pageConn{Conn: conn, batch: batch, plain: make([]byte, 0, recordSize)}
}

// batchWrites turns on the collecting of records.
func (c *pageConn) batchWrites() { c.batch.out = make([]byte, 0, writeBatch) }

// put writes bytes in full records; what is left waits for more, or flush.
func (c *pageConn) put(p []byte) error {
	if len(c.plain) > 0 {
		n := min(recordSize-len(c.plain), len(p))
		c.plain = append(c.plain, p[:n]...)
		p = p[n:]
		if len(c.plain) == recordSize {
			if _, err := c.Conn.Write(c.plain); err != nil {
				return err
			}
			c.plain = c.plain[:0]
		}
	}
	if n := len(p) / recordSize * recordSize; n > 0 {
		if _, err := c.Conn.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	c.plain = append(c.plain, p...)
	return nil
}

// pending says whether flush has something to write.
func (c *pageConn) pending() bool { return len(c.plain) > 0 || len(c.batch.out) > 0 }

// flush hands everything to the kernel.
func (c *pageConn) flush() error {
	if len(c.plain) > 0 {
		_, err := c.Conn.Write(c.plain)
		c.plain = c.plain[:0]
		if err != nil {
			return err
		}
	}
	return c.batch.flush()
}
