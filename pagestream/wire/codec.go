package wire

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression says what a session may compress with.
type Compression uint8

const (
	// Auto takes for each frame what gets it over soonest.
	Auto Compression = iota
	// NoCompression sends everything as it is, but for zero pages.
	NoCompression
	// LZ4 compresses with lz4 whatever gets smaller by it.
	LZ4
	// Zstd compresses with zstd whatever gets smaller by it.
	Zstd
)

var compressionNames = [...]string{Auto: "auto", NoCompression: "none", LZ4: "lz4", Zstd: "zstd"}

// String is the name that ParseCompression takes.
func (c Compression) String() string {
	if int(c) < len(compressionNames) {
		return compressionNames[c]
	}
	return fmt.Sprintf("compression(%d)", uint8(c))
}

// ParseCompression reads auto, none, lz4 or zstd.
func ParseCompression(s string) (Compression, error) {
	for c, name := range compressionNames {
		if s == name {
			return Compression(c), nil
		}
	}
	return 0, fmt.Errorf("compression %q: choose auto, none, lz4 or zstd", s)
}

// codec says how a frame's body is encoded.
type codec uint8

const (
	codecNone codec = 0
	codecLZ4  codec = 1
	codecZstd codec = 2
	numCodecs       = 3
)

func (c codec) String() string {
	switch c {
	case codecNone:
		return "none"
	case codecLZ4:
		return "lz4"
	case codecZstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// rung is a way to send a frame's body, on a ladder from the least work to the most.
type rung uint8

const (
	rungNone rung = iota
	rungLZ4
	rungZstd   // its first level
	rungHigher // the next one
	numRungs
)

// codec is the one with which the peer decodes it.
func (r rung) codec() codec { return min(codec(r), codecZstd) }

func (r rung) String() string {
	switch r {
	case rungZstd:
		return "zstd level 1"
	case rungHigher:
		return "zstd level 3"
	}
	return r.codec().String()
}

// levels are zstd's. There is no third one on the ladder: of text, Python's and redis' memory the one after these
// leaves 1 % less at best, and it takes 6 MiB a stream.
var levels = map[rung]zstd.EncoderLevel{rungZstd: zstd.SpeedFastest, rungHigher: zstd.SpeedDefault}

// worth is the largest part of its size that a body may keep to be sent
// compressed, in sixteenths: below a gain of 1/16 the receiver's work and
// ours are spent for nothing.
const worth = 15

// encoder compresses the bodies of one stream. What it needs it makes at the
// first use.
type encoder struct {
	lz4  *lz4.Compressor
	zstd [numRungs]*zstd.Encoder // of the rungs that are levels of it
	out  []byte
}

// encode compresses src, of at most MaxBlob bytes. It returns nil if that
// would not be worth it. The result is valid until the next call.
func (e *encoder) encode(r rung, src []byte) ([]byte, error) {
	limit := len(src) * worth / 16
	if e.out == nil {
		e.out = make([]byte, 0, MaxBlob+1<<10)
	}
	switch r {
	case rungLZ4:
		if e.lz4 == nil {
			e.lz4 = new(lz4.Compressor)
		}
		// With a destination shorter than the bound, what does not fit is
		// reported by an error or by 0 bytes: either means "not worth it".
		n, err := e.lz4.CompressBlock(src, e.out[:limit])
		if err != nil || n == 0 {
			return nil, nil
		}
		return e.out[:n], nil
	case rungZstd, rungHigher:
		if e.zstd[r] == nil {
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(levels[r]), zstd.WithEncoderConcurrency(1),
				zstd.WithWindowSize(MaxData), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
			if err != nil {
				return nil, fmt.Errorf("zstd encoder: %w", err)
			}
			e.zstd[r] = enc
		}
		out := e.zstd[r].EncodeAll(src, e.out[:0])
		if len(out) > limit {
			return nil, nil
		}
		return out, nil
	}
	return nil, nil
}

func (e *encoder) close() {
	for _, enc := range e.zstd {
		if enc != nil {
			enc.Close()
		}
	}
}

// decoder decompresses the bodies of one stream.
type decoder struct {
	zstd *zstd.Decoder
	out  []byte // capacity MaxBlob
}

// decode decompresses a body into raw bytes, at most MaxBlob. What decodes to
// more or to fewer is an error; never more than MaxBlob is written. The
// result is valid until the next call. Errors wrap ErrProtocol.
func (d *decoder) decode(c codec, body []byte, raw uint32) ([]byte, error) {
	if c == codecNone {
		return body, nil
	}
	if raw > MaxBlob {
		return nil, fmt.Errorf("body of %d bytes: %w", raw, ErrProtocol)
	}
	d.room()
	var n int
	var err error
	switch c {
	case codecLZ4:
		n, err = lz4.UncompressBlock(body, d.out[:raw])
	case codecZstd:
		if d.zstd == nil {
			d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxMemory(MaxBlob), zstd.WithDecodeAllCapLimit(true))
			if err != nil {
				return nil, fmt.Errorf("zstd decoder: %w", err)
			}
		}
		var out []byte
		out, err = d.zstd.DecodeAll(body, d.out[:0:raw])
		n = len(out)
	default:
		return nil, fmt.Errorf("unknown codec %d: %w", c, ErrProtocol)
	}
	if err != nil {
		return nil, fmt.Errorf("body compressed with %s: %w: %w", c, err, ErrProtocol)
	}
	if n != int(raw) {
		return nil, fmt.Errorf("body compressed with %s holds %d bytes, header says %d: %w", c, n, raw, ErrProtocol)
	}
	return d.out[:n], nil
}

// room is what the decoder decodes into, MaxBlob bytes, for who has nothing to decode.
func (d *decoder) room() []byte {
	if d.out == nil {
		d.out = make([]byte, MaxBlob)
	}
	return d.out
}

func (d *decoder) close() {
	if d.zstd != nil {
		d.zstd.Close()
	}
}
