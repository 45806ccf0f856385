package demand

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"godwit.dev/godwit/pagestream"
)

type kind uint8

const (
	// From the asking side.
	want   kind = iota + 1 // pages
	status                 // how far it is; answered with an echo
	done                   // it needs nothing more
	// From the answering side.
	pages   // answers a want
	echo    // answers a status
	refusal // a want cannot be answered, ever: the text says why
	parting // answers done, and ends it
)

const (
	headerSize = 40
	flagWaits  = 1
	maxBody    = MaxPages * pagestream.PageSize
)

// ErrProtocol is wrapped by every error about bytes of the peer.
var ErrProtocol = errors.New("bad message about missing pages")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is one message; which fields count depends on the kind.
type frame struct {
	kind    kind
	waits   bool
	process uint32
	start   uint64
	pages   uint64
	zero    uint64
	body    []byte
}

func (f *frame) appendTo(b []byte) []byte {
	at := len(b)
	var flags byte
	if f.waits {
		flags = flagWaits
	}
	b = append(b, byte(f.kind), flags, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, f.process)
	b = binary.LittleEndian.AppendUint64(b, f.start)
	b = binary.LittleEndian.AppendUint64(b, f.pages)
	b = binary.LittleEndian.AppendUint64(b, f.zero)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.body)))
	sum := crc32.Update(crc32.Checksum(f.body, castagnoli), castagnoli, b[at:])
	b = binary.LittleEndian.AppendUint32(b, sum)
	return append(b, f.body...)
}

// read reads a frame; its body is valid until the next call with the same buffer.
func read(r io.Reader, buf *[]byte) (frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	f := frame{
		kind: kind(h[0]), waits: h[1] == flagWaits,
		process: binary.LittleEndian.Uint32(h[4:]), start: binary.LittleEndian.Uint64(h[8:]),
		pages: binary.LittleEndian.Uint64(h[16:]), zero: binary.LittleEndian.Uint64(h[24:]),
	}
	n := binary.LittleEndian.Uint32(h[32:])
	if h[1]&^flagWaits != 0 || h[2] != 0 || h[3] != 0 {
		return frame{}, fmt.Errorf("flags %x: %w", h[1:4], ErrProtocol)
	}
	if err := f.check(n); err != nil {
		return frame{}, err
	}
	if cap(*buf) < int(n) {
		*buf = make([]byte, maxBody)
	}
	f.body = (*buf)[:n]
	if _, err := io.ReadFull(r, f.body); err != nil {
		return frame{}, fmt.Errorf("cut short: %w", unexpected(err))
	}
	sum := crc32.Update(crc32.Checksum(f.body, castagnoli), castagnoli, h[:36])
	if sum != binary.LittleEndian.Uint32(h[36:]) {
		return frame{}, fmt.Errorf("checksum of a frame of kind %d differs: %w", f.kind, ErrProtocol)
	}
	return f, nil
}

// check says whether a header with a body of n bytes can be.
func (f *frame) check(n uint32) error {
	bad := func(what string) error { return fmt.Errorf("kind %d, %s: %w", f.kind, what, ErrProtocol) }
	switch f.kind {
	case want, pages:
		r := pagestream.Range{Start: f.start, Pages: f.pages}
		space := pagestream.Space{Kind: pagestream.Process, ID: uint64(f.process)}
		switch {
		case f.pages > MaxPages || r.Valid() != nil:
			return bad(fmt.Sprintf("%d pages at %#x", f.pages, f.start))
		case space.Valid() != nil:
			return bad(fmt.Sprintf("process %d", f.process))
		}
		if f.kind == want {
			if n != 0 || f.zero != 0 {
				return bad("with a body")
			}
			return nil
		}
		if f.pages < 64 && f.zero>>f.pages != 0 {
			return bad(fmt.Sprintf("zero pages %#x of %d", f.zero, f.pages))
		}
		if data := f.pages - uint64(bits.OnesCount64(f.zero)); uint64(n) != data*pagestream.PageSize {
			return bad(fmt.Sprintf("%d bytes for %d pages", n, data))
		}
	case status, done, echo, parting:
		if n != 0 {
			return bad("with a body")
		}
	case refusal:
		if n > MaxText {
			return bad(fmt.Sprintf("a text of %d bytes", n))
		}
	default:
		return bad("unknown")
	}
	return nil
}

// unexpected makes the end of a stream within a message an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
