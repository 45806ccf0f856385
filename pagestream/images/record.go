package images

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// records reads an image: two magic numbers, then any number of messages, each
// behind its length in 32 bits (criu/protobuf.c, do_pb_read_one).
type records struct {
	r      *bufio.Reader
	offset int64 // of the record last read
	next   int64
	max    uint32 // longest record in bytes
}

// readSize is how much of an image is read at once. Most are smaller, several of each process are read while its pod stands still, and a
// large buffer takes longer to be made than what it saves.
const readSize = 16 << 10

func newRecords(r io.Reader, magic, maxRecord uint32) (*records, error) {
	rs := &records{r: bufio.NewReaderSize(r, readSize), max: maxRecord}
	var head [8]byte
	if _, err := io.ReadFull(rs.r, head[:]); err != nil {
		return nil, rs.short("magic numbers", err)
	}
	rs.next = 8
	if m := binary.LittleEndian.Uint32(head[:]); m != magicCommon {
		return nil, rs.bad("first magic number %#x is not CRIU's", m)
	}
	rs.offset = 4
	if m := binary.LittleEndian.Uint32(head[4:]); m != magic {
		return nil, rs.bad("second magic number %#x, want %#x", m, magic)
	}
	return rs, nil
}

// read returns the next record, valid until the next call, or io.EOF.
func (rs *records) read() ([]byte, error) {
	rs.offset = rs.next
	size, err := rs.r.Peek(4)
	if err != nil {
		if err == io.EOF && len(size) == 0 {
			return nil, err
		}
		return nil, rs.short("length of a record", err)
	}
	n := binary.LittleEndian.Uint32(size)
	if n > rs.max {
		return nil, rs.bad("record of %d bytes, at most %d are allowed", n, rs.max)
	}
	rs.r.Discard(4) // they are buffered
	rs.next += 4 + int64(n)
	if int(n) <= rs.r.Size() {
		msg, err := rs.r.Peek(int(n))
		if err != nil {
			return nil, rs.short("record", err)
		}
		rs.r.Discard(int(n))
		return msg, nil
	}
	// Memory as the bytes come, not as the length claims.
	msg, err := io.ReadAll(io.LimitReader(rs.r, int64(n)))
	if err == nil && len(msg) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, rs.short("record", err)
	}
	return msg, nil
}

func (rs *records) bad(format string, args ...any) error {
	return fmt.Errorf("offset %d: %s: %w", rs.offset, fmt.Sprintf(format, args...), ErrFormat)
}

// short is the error of a read that got less than it needs: the image's fault
// if it ended there, otherwise the reader's.
func (rs *records) short(what string, err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return rs.bad("%s is cut short", what)
	}
	return fmt.Errorf("offset %d: %s: %w", rs.offset, what, err)
}

// fields calls f for each field of a message: the value of a varint, or the
// bytes of a length-delimited field. Other types are skipped.
func fields(msg []byte, f func(num protowire.Number, v uint64, b []byte) error) error {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(msg)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, typ, msg)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		msg = msg[n:]
		if typ != protowire.VarintType && typ != protowire.BytesType {
			continue
		}
		if err := f(num, v, b); err != nil {
			return err
		}
	}
	return nil
}

// writeMagic begins an image.
func writeMagic(w io.Writer, magic uint32) error {
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:], magicCommon)
	binary.LittleEndian.PutUint32(head[4:], magic)
	_, err := w.Write(head[:])
	return err
}

// writeRecord writes one message behind its length.
func writeRecord(w io.Writer, msg []byte) error {
	var size [4]byte
	binary.LittleEndian.PutUint32(size[:], uint32(len(msg)))
	if _, err := w.Write(size[:]); err != nil {
		return err
	}
	_, err := w.Write(msg)
	return err
}
