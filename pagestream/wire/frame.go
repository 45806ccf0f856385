package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
)

// frameType says what a frame is.
type frameType uint8

const (
	// From the sender to the receiver.
	framePages   frameType = 1 // a run table, then the data of its runs
	frameBlob    frameType = 2 // a payload for a channel
	frameBarrier frameType = 3 // acknowledge at once; also keeps the stream alive
	frameBye     frameType = 4 // clean end of the stream
	frameAbort   frameType = 5 // the sender gave up; the body says why
	// From the receiver to the sender.
	frameAck   frameType = 6 // how far the receiver is
	frameError frameType = 7 // the receiver gave up; the body says why
	// From the sender, if both sides have featureDeltas.
	frameDeltas frameType = 8 // a run table, then a record of package delta for each page
)

// fromSender says which direction a type belongs to.
func (t frameType) fromSender() bool { return t >= framePages && t <= frameAbort || t == frameDeltas }

// headerSize is the size of a frame's header in bytes. Little endian:
//
//	 0 type u8, codec u8, zero u16
//	 4 runs u32      entries of the run table
//	 8 raw u32       bytes of the body when decompressed
//	12 body u32      bytes of the body on the wire
//	16 channel u32   of a blob
//	20 container u16, kind u8, zero u8, id u64   the space of pages
//	32 stored u64    of an ack: bytes of frames stored since the start
//	40 received u64  of an ack: bytes received since the start
//	48 sum u64       xxh3 of bytes 0..47, run table and body, see checksum
//
// The run table and the body follow.
const (
	headerSize = 56
	sumOffset  = 48
)

// header is a frame's header without its checksum.
type header struct {
	kind     frameType
	codec    codec
	runs     uint32
	raw      uint32
	body     uint32
	channel  uint32
	space    pagestream.Space
	stored   uint64
	received uint64
}

// wireSize is the number of bytes of the whole frame.
func (h *header) wireSize() uint64 {
	return headerSize + uint64(h.runs)*runSize + uint64(h.body)
}

func (h *header) encode(b *[headerSize]byte) {
	le := binary.LittleEndian
	*b = [headerSize]byte{0: byte(h.kind), 1: byte(h.codec), 22: byte(h.space.Kind)}
	le.PutUint32(b[4:], h.runs)
	le.PutUint32(b[8:], h.raw)
	le.PutUint32(b[12:], h.body)
	le.PutUint32(b[16:], h.channel)
	le.PutUint16(b[20:], h.space.Container)
	le.PutUint64(b[24:], h.space.ID)
	le.PutUint64(b[32:], h.stored)
	le.PutUint64(b[40:], h.received)
}

// decodeHeader reads and checks a header. Every length is then within its
// bounds and every field that the type does not use is zero. Errors wrap
// ErrProtocol.
func decodeHeader(b *[headerSize]byte) (header, error) {
	le := binary.LittleEndian
	h := header{
		kind:    frameType(b[0]),
		codec:   codec(b[1]),
		runs:    le.Uint32(b[4:]),
		raw:     le.Uint32(b[8:]),
		body:    le.Uint32(b[12:]),
		channel: le.Uint32(b[16:]),
		space: pagestream.Space{
			Container: le.Uint16(b[20:]),
			Kind:      pagestream.SpaceKind(b[22]),
			ID:        le.Uint64(b[24:]),
		},
		stored:   le.Uint64(b[32:]),
		received: le.Uint64(b[40:]),
	}
	if b[2] != 0 || b[3] != 0 || b[23] != 0 {
		return header{}, fmt.Errorf("frame with unknown flags: %w", ErrProtocol)
	}
	if err := h.check(); err != nil {
		return header{}, fmt.Errorf("frame of type %d: %w: %w", h.kind, err, ErrProtocol)
	}
	return h, nil
}

func (h *header) check() error {
	if h.codec > codecZstd {
		return fmt.Errorf("unknown codec %d", h.codec)
	}
	if h.codec == codecNone && h.body != h.raw || h.codec != codecNone && h.body >= h.raw {
		return fmt.Errorf("body of %d bytes for %d bytes with codec %s", h.body, h.raw, h.codec)
	}
	// What this type may carry; the rest must be zero.
	var may header
	var rawLimit, runLimit uint32
	switch h.kind {
	case framePages:
		rawLimit, runLimit, may.codec, may.space = MaxData, maxRuns, h.codec, h.space
		if h.runs == 0 || h.raw%pagestream.PageSize != 0 {
			return fmt.Errorf("%d runs, %d bytes: no whole pages", h.runs, h.raw)
		}
		if err := h.space.Valid(); err != nil {
			return err
		}
	case frameDeltas: // never compressed
		rawLimit, runLimit, may.space = maxDeltas, maxRuns, h.space
		if h.runs == 0 || h.raw == 0 {
			return fmt.Errorf("%d runs, %d bytes: no deltas", h.runs, h.raw)
		}
		if err := h.space.Valid(); err != nil {
			return err
		}
	case frameBlob:
		rawLimit, may.codec, may.channel = MaxBlob, h.codec, h.channel
	case frameBarrier, frameBye:
	case frameAbort, frameError:
		rawLimit = MaxText
	case frameAck:
		may.stored, may.received = h.stored, h.received
	default:
		return fmt.Errorf("unknown type")
	}
	if h.raw > rawLimit || h.runs > runLimit {
		return fmt.Errorf("%d bytes and %d runs, allowed are %d and %d", h.raw, h.runs, rawLimit, runLimit)
	}
	may.kind, may.runs, may.raw, may.body = h.kind, h.runs, h.raw, h.body
	if may != *h {
		return fmt.Errorf("a field is set that the type does not have")
	}
	return nil
}

// checksum covers a header and what follows it. The parts are chained by the
// seed, so none need be copied next to another; the body may lie in pieces,
// for which the hasher is used.
func checksum(head *[headerSize]byte, table []byte, body [][]byte, hasher *xxh3.Hasher) uint64 {
	sum := xxh3.Hash(head[:sumOffset])
	if len(table) > 0 {
		sum = xxh3.HashSeed(table, sum)
	}
	switch len(body) {
	case 0:
		return xxh3.HashSeed(nil, sum)
	case 1:
		return xxh3.HashSeed(body[0], sum)
	}
	hasher.ResetSeed(sum)
	for _, piece := range body {
		hasher.Write(piece)
	}
	return hasher.Sum64()
}
