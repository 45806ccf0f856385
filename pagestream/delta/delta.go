// Package delta writes a page as what changed in it since a copy that the destination has:
// a page in which a counter, a timestamp or a list's pointer was set crosses the link as a few
// dozen bytes. Cache holds such copies at the source, within a bound, and chooses which
// are worth their memory.
//
// How deltas travel is package wire's subject; that a copy which the cache holds is stored
// at the destination before a delta against it is sent is that of package precopy, whose
// rounds each end with a flush.
//
// # A record
//
// For each page, little endian:
//
//	 0 sum u64    xxh3 of the whole page as it has to become
//	 8 size u16   bytes of the changes
//	10 changes    {skip uvarint, length uvarint, the new bytes}...
//
// skip is the distance from the end of the change before. What follows the last change
// is as it was. The sum tells a wrong base from a right one: whatever the changes
// were applied to, what comes out is the page or an error.
package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
)

const (
	// HeadSize is the size of a record without its changes, bytes.
	HeadSize = 10
	// MaxRecord is the most bytes that a record has. More than half a page is not worth
	// a delta, whatever else the page would cost.
	MaxRecord = pagestream.PageSize / 2
)

var (
	// ErrFormat is wrapped by the errors of records that are none.
	ErrFormat = errors.New("malformed delta")
	// ErrBase is wrapped by the error of a record that does not belong to the page that it
	// was applied to.
	ErrBase = errors.New("delta against another content of the page")
)

// Append appends the record that makes page of base, both of PageSize bytes, and says
// whether it has at most limit bytes. If not, dst comes back as it was. No record has more
// than MaxRecord, whatever the limit.
func Append(dst, base, page []byte, limit int) ([]byte, bool) {
	limit = min(limit, MaxRecord)
	if limit < HeadSize {
		return dst, false
	}
	start := len(dst)
	out := append(dst, make([]byte, HeadSize)...)
	done := 0 // end of the last change
	for at := 0; ; {
		if at = differs(base, page, at); at == pagestream.PageSize {
			break
		}
		from := at + bits.TrailingZeros64(xor(base, page, at))/8
		for at += 8; at < pagestream.PageSize && xor(base, page, at) != 0; at += 8 {
		}
		to := at - bits.LeadingZeros64(xor(base, page, at-8))/8
		out = binary.AppendUvarint(out, uint64(from-done))
		out = binary.AppendUvarint(out, uint64(to-from))
		if len(out)-start+to-from > limit {
			return dst, false
		}
		out = append(out, page[from:to]...)
		done = to
	}
	binary.LittleEndian.PutUint64(out[start:], xxh3.Hash(page))
	binary.LittleEndian.PutUint16(out[start+8:], uint16(len(out)-start-HeadSize))
	return out, true
}

// xor compares the eight bytes at an offset.
func xor(base, page []byte, at int) uint64 {
	return binary.LittleEndian.Uint64(base[at:]) ^ binary.LittleEndian.Uint64(page[at:])
}

// differs is the offset of the first eight bytes from at on that differ, PageSize if none do.
// at is a multiple of eight.
func differs(base, page []byte, at int) int {
	for ; at%stride != 0; at += 8 {
		if xor(base, page, at) != 0 {
			return at
		}
	}
	for ; at < pagestream.PageSize; at += stride {
		a, b := base[at:at+stride:at+stride], page[at:at+stride:at+stride]
		if xor(a, b, 0)|xor(a, b, 8)|xor(a, b, 16)|xor(a, b, 24) != 0 {
			break
		}
	}
	for ; at < pagestream.PageSize; at += 8 {
		if xor(base, page, at) != 0 {
			return at
		}
	}
	return pagestream.PageSize
}

// stride is how many bytes are compared together.
const stride = 32

// Record is one that was taken off a body of records. It points into that.
type Record struct {
	sum     uint64
	changes []byte
}

// Next takes the first record off a body. Errors wrap ErrFormat.
func Next(body []byte) (r Record, rest []byte, err error) {
	if len(body) < HeadSize {
		return Record{}, nil, fmt.Errorf("record of %d bytes: %w", len(body), ErrFormat)
	}
	size := int(binary.LittleEndian.Uint16(body[8:]))
	if size > MaxRecord-HeadSize || size > len(body)-HeadSize {
		return Record{}, nil, fmt.Errorf("record with %d bytes of changes in %d: %w", size, len(body), ErrFormat)
	}
	end := HeadSize + size
	return Record{binary.LittleEndian.Uint64(body), body[HeadSize:end:end]}, body[end:], nil
}

// Apply changes page, which has PageSize bytes and holds the base. After an error its content
// is of no use; the error wraps ErrFormat, or ErrBase if the base was another.
func (r Record) Apply(page []byte) error {
	at := 0
	for rest := r.changes; len(rest) > 0; {
		skip, n := binary.Uvarint(rest)
		if n <= 0 || skip > uint64(pagestream.PageSize-at) {
			return fmt.Errorf("change after byte %d of a page: %w", at, ErrFormat)
		}
		at, rest = at+int(skip), rest[n:]
		length, n := binary.Uvarint(rest)
		if n <= 0 || length == 0 || length > uint64(pagestream.PageSize-at) || length > uint64(len(rest)-n) {
			return fmt.Errorf("change at byte %d of a page: %w", at, ErrFormat)
		}
		copy(page[at:], rest[n:n+int(length)])
		at, rest = at+int(length), rest[n+int(length):]
	}
	if xxh3.Hash(page) != r.sum {
		return ErrBase
	}
	return nil
}
