package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"godwit.dev/godwit/pagestream"
)

const (
	// maxUnacked is how many bytes are stored before they are acknowledged,
	// unless the window asks for less.
	maxUnacked = 2 << 20
	// progressEvery is how often at least a slow stream says what it has got.
	progressEvery = time.Second
)

// receiverError is an error of the Receiver, as opposed to one of the stream.
type receiverError struct {
	what string
	err  error
}

func (e *receiverError) Error() string { return e.what + ": " + e.err.Error() }
func (e *receiverError) Unwrap() error { return e.err }

// reception receives the frames of one stream. It belongs to one goroutine.
type reception struct {
	peer     string
	receiver Receiver
	reader   io.Reader // conn's reading half
	conn     *pageConn
	ackEvery uint64
	progress time.Duration
	deltas   bool // both sides know them

	payload []byte // run table and body as they came
	runs    []run
	decoder decoder

	received uint64 // bytes of frames read
	stored   uint64 // bytes of frames dealt with
	acked    uint64 // of stored, at the last acknowledgement
	ackedAt  time.Time
}

func newReception(in *inbound, hello *Hello, conn *pageConn) *reception {
	idle := max(in.listener.limits.Silence, 4*hello.KeepAlive)
	conn.batchReads()
	conn.batch.idle = idle
	return &reception{
		peer:     in.key.peer,
		receiver: in.receiver,
		reader:   conn,
		conn:     conn,
		ackEvery: min(uint64(hello.Window)/4, maxUnacked),
		progress: min(progressEvery, hello.KeepAlive),
		deltas:   conn.features&featureDeltas != 0,
		payload:  make([]byte, maxTable+MaxBlob),
		ackedAt:  time.Now(),
	}
}

// run receives until the sender says goodbye (nil) or something fails.
func (r *reception) run() error {
	defer r.decoder.close()
	for {
		h, table, body, err := r.next()
		if err != nil {
			return r.explain(err)
		}
		if h.kind == frameAbort {
			return &RemoteError{Peer: r.peer, Text: "gave up: " + peerText(body)}
		}
		if err := r.deliver(&h, table, body); err != nil {
			return err
		}
		r.stored += h.wireSize()
		if err := r.ackIfDue(h.kind == frameBarrier || h.kind == frameBye); err != nil {
			return r.explain(err)
		}
		if h.kind == frameBye {
			return nil
		}
	}
}

// explain makes an error of reading or of acknowledging plain.
func (r *reception) explain(err error) error {
	switch {
	case errors.Is(err, ErrProtocol) || errors.Is(err, ErrChecksum):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("nothing heard or taken for %v: %w", r.conn.batch.idle, ErrHung)
	}
	return fmt.Errorf("connection lost: %w", unexpected(err))
}

// next reads a frame and verifies its checksum.
func (r *reception) next() (h header, table, body []byte, err error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r.reader, head[:]); err != nil {
		return h, nil, nil, err
	}
	h, err = decodeHeader(&head)
	if err != nil {
		return h, nil, nil, err
	}
	if !h.kind.fromSender() {
		return h, nil, nil, fmt.Errorf("frame of type %d from a sender: %w", h.kind, ErrProtocol)
	}
	r.received += headerSize
	payload := r.payload[:h.wireSize()-headerSize]
	if err := r.readFull(payload); err != nil {
		return h, nil, nil, unexpected(err)
	}
	table, body = payload[:h.runs*runSize], payload[h.runs*runSize:]
	if checksum(&head, table, [][]byte{body}, nil) != binary.LittleEndian.Uint64(head[sumOffset:]) {
		return h, nil, nil, fmt.Errorf("frame of type %d with %d bytes: %w", h.kind, len(payload), ErrChecksum)
	}
	return h, table, body, nil
}

// readFull reads a payload. On a slow link it says now and then that bytes
// come in, so that the sender does not think that we hang.
func (r *reception) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := r.reader.Read(p) // a record at most
		if err != nil {
			return err
		}
		r.received += uint64(n)
		p = p[n:]
		if len(p) > 0 && time.Since(r.ackedAt) > r.progress {
			if err := r.ack(); err != nil {
				return err
			}
		}
	}
	return nil
}

// deliver hands a frame's content to the Receiver.
func (r *reception) deliver(h *header, table, body []byte) error {
	switch h.kind {
	case framePages, frameBlob:
	case frameDeltas:
		return r.changePages(h, table, body)
	default:
		return nil
	}
	data, err := r.decoder.decode(h.codec, body, h.raw)
	if err != nil {
		return err
	}
	if h.kind == frameBlob {
		if err := r.receiver.Blob(h.channel, data); err != nil {
			return &receiverError{fmt.Sprintf("blob for channel %d", h.channel), err}
		}
		return nil
	}
	r.runs, err = decodeRuns(r.runs, table, h.raw)
	if err != nil {
		return err
	}
	return r.deliverRuns(h.space, data)
}

func (r *reception) changePages(h *header, table, body []byte) (err error) {
	if !r.deltas {
		return fmt.Errorf("deltas, which were not agreed upon: %w", ErrProtocol)
	}
	if r.runs, err = decodeDeltaRuns(r.runs, table); err != nil {
		return err
	}
	return r.deliverDeltas(h.space, body)
}

func (r *reception) deliverRuns(space pagestream.Space, data []byte) error {
	for _, run := range r.runs {
		var err error
		if run.zero {
			err = r.receiver.Zero(space, run.Start, run.Pages)
		} else {
			n := run.Bytes()
			err = r.receiver.Pages(space, run.Start, data[:n:n])
			data = data[n:]
		}
		if err != nil {
			return &receiverError{fmt.Sprintf("pages %s of %s", run.Range, space), err}
		}
	}
	return nil
}

func (r *reception) ackIfDue(now bool) error {
	if now || r.stored-r.acked >= r.ackEvery || time.Since(r.ackedAt) > r.progress {
		return r.ack()
	}
	return nil
}

func (r *reception) ack() error {
	h := header{kind: frameAck, stored: r.stored, received: r.received}
	r.acked, r.ackedAt = r.stored, time.Now()
	r.conn.batch.SetWriteDeadline(r.ackedAt.Add(r.conn.batch.idle))
	return writeReply(r.conn, &h, nil)
}

// writeReply writes a frame to the sender.
func writeReply(conn *pageConn, h *header, body []byte) error {
	var head [headerSize]byte
	h.encode(&head)
	binary.LittleEndian.PutUint64(head[sumOffset:], checksum(&head, nil, [][]byte{body}, nil))
	if err := conn.put(head[:]); err != nil {
		return err
	}
	if err := conn.put(body); err != nil {
		return err
	}
	return conn.flush()
}
