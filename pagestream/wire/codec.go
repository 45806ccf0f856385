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

// worth is the largest part of its size that a body may keep to be sent
// compressed, in sixteenths: below a gain of 1/16 the receiver's work and
// ours are spent for nothing.
const worth = 15

// encoder compresses the bodies of one stream. What it needs it makes at the
// first use.
type encoder struct {
	lz4  *lz4.Compressor
	zstd *zstd.Encoder
	out  []byte
}

// encode compresses src, of at most MaxBlob bytes. It returns nil if that
// would not be worth it. The result is valid until the next call.
func (e *encoder) encode(c codec, src []byte) ([]byte, error) {
	limit := len(src) * worth / 16
	if e.out == nil {
		e.out = make([]byte, 0, MaxBlob+1<<10)
	}
	switch c {
	case codecLZ4:
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
	case codecZstd:
		if e.zstd == nil {
			// Higher levels do not pay, whatever holds the stream back: of memory full of
			// Python objects this one leaves 0.124, the next 0.123, the one after that
			// 0.119 at a third of the speed.
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
				zstd.WithWindowSize(MaxData), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
			if err != nil {
				return nil, fmt.Errorf("zstd encoder: %w", err)
			}
			e.zstd = enc
		}
		out := e.zstd.EncodeAll(src, e.out[:0])
		if len(out) > limit {
			return nil, nil
		}
		return out, nil
	}
	return nil, nil
}

func (e *encoder) close() {
	if e.zstd != nil {
		e.zstd.Close()
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
