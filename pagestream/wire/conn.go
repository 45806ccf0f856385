package wire

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

const (
	// writeBatch is how much ciphertext goes out in one system call, which
	// costs as much as the copy of several records.
	writeBatch = 256 << 10
	// readBatch is how much a receiver reads in one system call.
	readBatch = 256 << 10
)

// batchConn is a TCP connection that is first a tls.Conn's, for the handshake,
// and then a pageConn's or still the tls.Conn's. It never reads beyond the end
// of a record while it is a tls.Conn's that another one will follow.
type batchConn struct {
	*net.TCPConn
	handover bool          // a pageConn will read what follows the handshake
	head     [5]byte       // of the record that is being read, while handover
	got      int           // bytes of head
	rest     int           // of that record, bytes not read yet
	idle     time.Duration // a read that gets nothing for so long fails; 0: waits
	stopped  atomic.Bool   // reads fail, see stopReading
}

// Read implements net.Conn.
func (c *batchConn) Read(p []byte) (int, error) {
	if !c.handover {
		return c.receive(p)
	}
	if c.rest > 0 {
		n, err := c.receive(p[:min(len(p), c.rest)])
		c.rest -= n
		return n, err
	}
	n, err := c.receive(p[:min(len(p), len(c.head)-c.got)])
	c.got += copy(c.head[c.got:], p[:n])
	if c.got == len(c.head) {
		c.got, c.rest = 0, int(binary.BigEndian.Uint16(c.head[3:]))
	}
	return n, err
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

// pageConn is a connection of a page stream after its handshake. Many records
// go in one system call, and each byte is copied as seldom as can be: into its
// record, which is encrypted in place, and out of it by the decryption. Writing
// is for one goroutine at a time, reading for another one.
type pageConn struct {
	batch    *batchConn
	features uint64 // that both sides have

	sealing protection
	renewal uint64 // records under one key
	plain   []byte // plaintext that does not fill a record yet
	sealed  []byte // records that have not been written
	out     effort // in writes

	opening protection
	in      []byte // buffer for reading
	unread  []byte // the part of in that has not been decrypted
	scratch []byte // takes the content of a record that the reader has no room for
	opened  []byte // the part of scratch that has not been read
}

// newPageConn takes over a connection whose handshake is over, with secrets as
// its key log, and from which no application data was read or written.
func newPageConn(conn *tls.Conn, batch *batchConn, secrets *trafficSecrets, isClient bool) (*pageConn, error) {
	sealing, opening, err := secrets.protections(conn.ConnectionState().CipherSuite)
	if err != nil {
		return nil, err
	}
	if !isClient {
		sealing, opening = opening, sealing
	}
	batch.handover = false
	return &pageConn{
		batch:   batch,
		sealing: *sealing,
		renewal: renewEvery,
		plain:   make([]byte, 0, recordSize),
		sealed:  make([]byte, 0, recordSize+2*recordOverhead),
		opening: *opening,
		in:      make([]byte, maxRecord),
		scratch: make([]byte, maxRecord),
	}, nil
}

// batchWrites makes room for many records, for the side that sends pages.
func (c *pageConn) batchWrites() { c.sealed = append(make([]byte, 0, writeBatch), c.sealed...) }

// batchReads makes room for many records, for the side that receives pages.
func (c *pageConn) batchReads() {
	in := make([]byte, readBatch)
	c.unread = in[:copy(in, c.unread)]
	c.in = in
}

// put writes bytes in full records; what is left waits for more, or flush.
func (c *pageConn) put(p []byte) error {
	for len(p) > 0 {
		if len(c.plain) == 0 && len(p) >= recordSize {
			if err := c.seal(recordData, p[:recordSize]); err != nil {
				return err
			}
			p = p[recordSize:]
			continue
		}
		n := min(recordSize-len(c.plain), len(p))
		c.plain = append(c.plain, p[:n]...)
		p = p[n:]
		if len(c.plain) == recordSize {
			if err := c.sealPlain(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *pageConn) sealPlain() error {
	err := c.seal(recordData, c.plain)
	c.plain = c.plain[:0]
	return err
}

// seal makes a record, after one that announces a new key if that is due.
func (c *pageConn) seal(kind recordType, content []byte) error {
	if c.sealing.number >= c.renewal {
		if err := c.room(len(keyUpdate)); err != nil {
			return err
		}
		c.sealed = c.sealing.seal(c.sealed, recordHandshake, keyUpdate)
		if err := c.sealing.renew(); err != nil {
			return err
		}
	}
	if err := c.room(len(content)); err != nil {
		return err
	}
	c.sealed = c.sealing.seal(c.sealed, kind, content)
	return nil
}

// room writes the collected records if another one has no room beside them.
func (c *pageConn) room(content int) error {
	if len(c.sealed)+content+recordOverhead > cap(c.sealed) {
		return c.writeOut()
	}
	return nil
}

// pending says whether flush has something to write.
func (c *pageConn) pending() bool { return len(c.plain) > 0 || len(c.sealed) > 0 }

// flush hands everything to the kernel.
func (c *pageConn) flush() error {
	if len(c.plain) > 0 {
		if err := c.sealPlain(); err != nil {
			return err
		}
	}
	return c.writeOut()
}

func (c *pageConn) writeOut() error {
	if len(c.sealed) == 0 {
		return nil
	}
	watch := startWatch()
	_, err := c.batch.Write(c.sealed)
	c.out.add(watch.stop())
	c.sealed = c.sealed[:0]
	return err
}

// Write implements io.Writer: p is with the kernel when it returns.
func (c *pageConn) Write(p []byte) (int, error) {
	err := c.put(p)
	if err == nil {
		err = c.flush()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Read implements io.Reader. A record for which p has room, its type included,
// is decrypted into it.
func (c *pageConn) Read(p []byte) (int, error) {
	for len(c.opened) == 0 {
		record, err := c.nextRecord()
		if err != nil {
			return 0, err
		}
		into := p
		if len(p) < len(record)-recordHead-tagSize {
			into = c.scratch
		}
		kind, content, err := c.opening.open(into, record)
		if err != nil {
			return 0, err
		}
		if kind != recordData {
			if err := c.told(kind, content); err != nil {
				return 0, err
			}
			continue
		}
		if len(into) == len(p) && len(content) > 0 && &into[0] == &p[0] {
			return len(content), nil
		}
		c.opened = content
	}
	n := copy(p, c.opened)
	c.opened = c.opened[n:]
	return n, nil
}

// told acts upon what the peer's TLS says.
func (c *pageConn) told(kind recordType, content []byte) error {
	switch {
	case kind == recordAlert:
		return errAlert(content)
	case kind == recordHandshake && bytes.Equal(content, keyUpdate):
		return c.opening.renew()
	}
	return fmt.Errorf("TLS record of type %d where data was expected: %w", kind, ErrProtocol)
}

// nextRecord returns the next record, valid until the next call.
func (c *pageConn) nextRecord() ([]byte, error) {
	need := recordHead
	for {
		if len(c.unread) >= recordHead {
			var err error
			if need, err = recordLength(c.unread); err != nil {
				return nil, err
			}
		}
		if len(c.unread) >= need {
			record := c.unread[:need]
			c.unread = c.unread[need:]
			return record, nil
		}
		// What is left is the beginning of a record, and short.
		have := copy(c.in, c.unread)
		n, err := c.batch.receive(c.in[have:])
		c.unread = c.in[:have+n]
		if n == 0 && err != nil {
			return nil, err
		}
	}
}
