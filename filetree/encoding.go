package filetree

import (
	"encoding/binary"
	"fmt"
	"math"
)

// version is the first byte of every record. A change of the encoding changes it.
const version = 1

// The bits of a record's flags byte.
const (
	flagOpaque = 1 << iota
	flagCreate
	flagFrozen
)

// AppendRecord appends the encoding of r to dst: a byte of version, a byte of type, then the fields of that type, numbers
// as varints in their shortest form, strings and data behind their length. A record ends where it says so: several may
// follow one another in one buffer. An invalid record is an ErrRecord.
func AppendRecord(dst []byte, r Record) ([]byte, error) {
	dst, err := AppendHeader(dst, r)
	if err != nil {
		return dst, err
	}
	return append(dst, r.Data...), nil
}

// AppendHeader is AppendRecord without the bytes of r.Data, which are the end of the encoding: a caller that gathers its
// writes sends the two behind one another and saves a copy.
func AppendHeader(dst []byte, r Record) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return dst, err
	}
	if r.Type != TypeData && len(r.Data) != 0 {
		return dst, fmt.Errorf("%w: %v with data", ErrRecord, r.Type)
	}
	dst = append(dst, version, byte(r.Type))
	switch r.Type {
	case TypeDir:
		dst = appendMeta(append(appendString(dst, r.Path), flags(r)), r.Meta)
	case TypeFile:
		dst = append(appendString(dst, r.Path), flags(r))
		dst = appendMeta(binary.AppendUvarint(dst, uint64(r.Size)), r.Meta)
	case TypeData:
		dst = binary.AppendUvarint(dst, uint64(r.Offset))
		dst = binary.AppendUvarint(dst, uint64(len(r.Data)))
	case TypeZero:
		dst = binary.AppendUvarint(dst, uint64(r.Offset))
		dst = binary.AppendUvarint(dst, uint64(r.Length))
	case TypeLink, TypeRename:
		dst = appendString(appendString(dst, r.Path), r.Target)
	case TypeSymlink:
		dst = appendMeta(appendString(appendString(dst, r.Path), r.Target), r.Meta)
	case TypeNode:
		dst = binary.AppendUvarint(appendString(dst, r.Path), uint64(r.NodeType))
		dst = binary.AppendUvarint(dst, uint64(r.Major))
		dst = appendMeta(binary.AppendUvarint(dst, uint64(r.Minor)), r.Meta)
	case TypeRemove:
		dst = appendString(dst, r.Path)
	case TypeMeta:
		dst = appendMeta(appendString(dst, r.Path), r.Meta)
	case TypeEnd:
		dst = binary.AppendUvarint(append(dst, flags(r)), r.Sync)
		dst = binary.AppendUvarint(dst, r.Count)
	}
	return dst, nil
}

func flags(r Record) byte {
	var f byte
	if r.Opaque && r.Type == TypeDir {
		f |= flagOpaque
	}
	if r.Create && r.Type == TypeFile {
		f |= flagCreate
	}
	if r.Frozen && r.Type == TypeEnd {
		f |= flagFrozen
	}
	return f
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendMeta(dst []byte, m Meta) []byte {
	dst = binary.AppendUvarint(dst, uint64(m.UID))
	dst = binary.AppendUvarint(dst, uint64(m.GID))
	dst = binary.AppendUvarint(dst, uint64(m.Mode))
	dst = binary.AppendVarint(dst, int64(m.Mtime.Sec))
	dst = binary.AppendUvarint(dst, uint64(m.Mtime.Nsec))
	dst = binary.AppendUvarint(dst, uint64(len(m.Xattrs)))
	for _, x := range m.Xattrs {
		dst = appendString(dst, x.Name)
		dst = append(binary.AppendUvarint(dst, uint64(len(x.Value))), x.Value...)
	}
	return dst
}

// DecodeRecord returns the record at the start of b and how many bytes it takes there. Data and the values of extended
// attributes point into b. Anything but the exact encoding of a valid record is an ErrRecord, b ending early included.
func DecodeRecord(b []byte) (Record, int, error) {
	d := decoder{rest: b}
	r := d.record()
	if d.err == nil {
		d.err = r.validate()
	}
	if d.err != nil {
		return Record{}, 0, fmt.Errorf("%w: %v: %w", ErrRecord, r.Type, d.err)
	}
	return r, len(b) - len(d.rest), nil
}

// decoder takes fields off rest until the first that is wrong, and gives zeros after that.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) record() Record {
	if v := d.byte(); d.err == nil && v != version {
		d.fail("version %d, this side speaks %d: run the same release on both nodes", v, version)
	}
	r := Record{Type: Type(d.byte())}
	switch r.Type {
	case TypeDir:
		r.Path, r.Opaque, r.Meta = d.string(MaxPath), d.flag(flagOpaque), d.meta()
	case TypeFile:
		r.Path, r.Create, r.Size, r.Meta = d.string(MaxPath), d.flag(flagCreate), d.size(), d.meta()
	case TypeData:
		r.Offset = d.size()
		r.Data = d.bytes(MaxData)
	case TypeZero:
		r.Offset, r.Length = d.size(), d.size()
	case TypeLink, TypeRename:
		r.Path, r.Target = d.string(MaxPath), d.string(MaxPath)
	case TypeSymlink:
		r.Path, r.Target, r.Meta = d.string(MaxPath), d.string(MaxPath), d.meta()
	case TypeNode:
		r.Path, r.NodeType, r.Major, r.Minor, r.Meta = d.string(MaxPath), d.uint32(), d.uint32(), d.uint32(), d.meta()
	case TypeRemove:
		r.Path = d.string(MaxPath)
	case TypeMeta:
		r.Path, r.Meta = d.string(MaxPath), d.meta()
	case TypeEnd:
		r.Frozen, r.Sync, r.Count = d.flag(flagFrozen), d.uvarint(), d.uvarint()
	}
	return r
}

func (d *decoder) meta() Meta {
	m := Meta{UID: d.uint32(), GID: d.uint32(), Mode: d.uint32()}
	m.Mtime.Sec = d.varint()
	m.Mtime.Nsec = d.size()
	n := d.uvarint()
	if n > MaxXattrs {
		d.fail("%d extended attributes, want at most %d", n, MaxXattrs)
	}
	for i := uint64(0); i < n && d.err == nil; i++ {
		m.Xattrs = append(m.Xattrs, Xattr{Name: d.string(MaxName), Value: d.bytes(MaxXattrBytes)})
	}
	return m
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
		d.rest = nil
	}
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail("ends early")
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

// flag reads a flags byte that may hold one flag.
func (d *decoder) flag(bit byte) bool {
	b := d.byte()
	if b&^bit != 0 {
		d.fail("unknown flags %#x", b)
	}
	return b == bit
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail("number ends early or is too large")
		return 0
	}
	if n > 1 && d.rest[n-1] == 0 {
		d.fail("number is not in its shortest form")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// varint undoes the zigzag form of binary.AppendVarint.
func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) uint32() uint32 {
	v := d.uvarint()
	if v > math.MaxUint32 {
		d.fail("number %d is too large", v)
		return 0
	}
	return uint32(v)
}

func (d *decoder) size() int64 {
	v := d.uvarint()
	if v > maxFileSize {
		d.fail("number %d is too large", v)
		return 0
	}
	return int64(v)
}

func (d *decoder) bytes(limit int) []byte {
	n := d.uvarint()
	if n > uint64(limit) || n > uint64(len(d.rest)) {
		d.fail("field of %d bytes, of which %d are there and at most %d are allowed", n, len(d.rest), limit)
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) string(limit int) string { return string(d.bytes(limit)) }
