package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// waitStored waits until everything up to mark is stored.
func (s *Stream) waitStored(ctx context.Context, mark uint64) error {
	for {
		changed := s.flow.reached(mark)
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-s.session.done:
			if s.flow.reached(mark) == nil {
				return nil
			}
			return s.session.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readAcks reads what the receiver has to say until the connection ends.
func (s *Stream) readAcks() {
	defer close(s.readDone)
	text := make([]byte, MaxText)
	for {
		h, err := readAck(s.conn, text)
		switch {
		case err != nil && s.byeSaid.Load() && s.flow.idle():
			return // the receiver took our goodbye and went
		case err != nil:
			s.session.fail(fmt.Errorf("peer %s: stream %d: connection lost: %w", s.session.peer, s.number, unexpected(err)))
			return
		case h.kind == frameError:
			s.session.fail(&RemoteError{Peer: s.session.peer, Text: peerText(text[:h.body])})
			return
		}
		if err := s.flow.ack(h.stored, h.received, time.Now()); err != nil {
			s.session.fail(fmt.Errorf("peer %s: stream %d: %w", s.session.peer, s.number, err))
			return
		}
	}
}

// readAck reads one frame of the receiver's and checks it. text takes an
// error's text and has MaxText bytes.
func readAck(r io.Reader, text []byte) (header, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return header{}, err
	}
	h, err := decodeHeader(&head)
	if err != nil {
		return header{}, err
	}
	if h.kind.fromSender() {
		return header{}, fmt.Errorf("frame of type %d from a receiver: %w", h.kind, ErrProtocol)
	}
	body := text[:h.body]
	if _, err := io.ReadFull(r, body); err != nil {
		return header{}, err
	}
	if checksum(&head, nil, [][]byte{body}, nil) != binary.LittleEndian.Uint64(head[sumOffset:]) {
		return header{}, fmt.Errorf("acknowledgement: %w", ErrChecksum)
	}
	return h, nil
}
