package pageserver

import (
	"encoding/binary"
	"fmt"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// Layout is how a CRIU lays out its messages (criu/page-xfer.c, struct
// page_server_iov). Numbers have the byte order of the machine.
type Layout uint8

const (
	// LayoutUnknown is the layout of a conversation that was too short to
	// tell, and in Config asks for the layout to be found out.
	LayoutUnknown Layout = iota
	// Layout24 is that of CRIU up to 4.1.1: cmd u32, nr_pages u32, vaddr u64,
	// dst_id u64.
	Layout24
	// Layout32 is that of CRIU from 4.2: cmd u32, padding u32, nr_pages u64,
	// vaddr u64, dst_id u64.
	Layout32
)

// String names the layout by its size.
func (l Layout) String() string {
	switch l {
	case Layout24:
		return "24 bytes (criu up to 4.1)"
	case Layout32:
		return "32 bytes (criu 4.2 and later)"
	}
	return "unknown"
}

const (
	size24 = 24
	size32 = 32
)

// size is the length of a message, without the pages that may follow it.
func (l Layout) size() int {
	if l == Layout32 {
		return size32
	}
	return size24
}

// command is what a message asks for (criu/page-xfer.c, PS_IOV_*).
type command uint16

const (
	cmdAdd        command = 1 // pages follow; CRIU before 3.0
	cmdHole       command = 2 // pages are in the parent; CRIU before 3.0
	cmdOpen       command = 3 // begins a space, no reply
	cmdOpen2      command = 4 // begins a space; reply: one byte, has it a parent
	cmdParent     command = 5 // reply: an int, has the space a parent
	cmdAddFlags   command = 6 // the flags say what the pages are and if they follow
	cmdGet        command = 7 // reply: cmdAddFlags and pages
	cmdClose      command = 0x1023
	cmdForceClose command = 0x1024 // close, where the socket stays open elsewhere
)

func (c command) String() string {
	switch c {
	case cmdAdd:
		return "ADD"
	case cmdHole:
		return "HOLE"
	case cmdOpen:
		return "OPEN"
	case cmdOpen2:
		return "OPEN2"
	case cmdParent:
		return "PARENT"
	case cmdAddFlags:
		return "ADD_F"
	case cmdGet:
		return "GET"
	case cmdClose:
		return "CLOSE"
	case cmdForceClose:
		return "FORCE_CLOSE"
	}
	return fmt.Sprintf("command %#x", uint16(c))
}

// message is one struct page_server_iov.
type message struct {
	cmd   command
	flags images.Flags // PE_PARENT, PE_LAZY, PE_PRESENT are the images'
	pages uint64
	vaddr uint64
	dst   uint64
}

// span is the pages that the message is about, unchecked.
func (m message) span() pagestream.Range { return pagestream.Range{Start: m.vaddr, Pages: m.pages} }

func (m message) String() string {
	return fmt.Sprintf("%s(flags %#x, %d pages at %#x, dst_id %#x)", m.cmd, uint32(m.flags), m.pages, m.vaddr, m.dst)
}

// decode reads a message of l.size() bytes.
func (l Layout) decode(b []byte) message {
	word := binary.NativeEndian.Uint32(b)
	m := message{cmd: command(word & 0xffff), flags: images.Flags(word >> 16)}
	if l == Layout32 {
		m.pages = binary.NativeEndian.Uint64(b[8:])
		m.vaddr = binary.NativeEndian.Uint64(b[16:])
		m.dst = binary.NativeEndian.Uint64(b[24:])
		return m
	}
	m.pages = uint64(binary.NativeEndian.Uint32(b[4:]))
	m.vaddr = binary.NativeEndian.Uint64(b[8:])
	m.dst = binary.NativeEndian.Uint64(b[16:])
	return m
}

// append encodes a message.
func (l Layout) append(b []byte, m message) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(m.flags)<<16|uint32(m.cmd))
	if l == Layout32 {
		b = binary.NativeEndian.AppendUint32(b, 0)
		b = binary.NativeEndian.AppendUint64(b, m.pages)
	} else {
		b = binary.NativeEndian.AppendUint32(b, uint32(m.pages))
	}
	b = binary.NativeEndian.AppendUint64(b, m.vaddr)
	return binary.NativeEndian.AppendUint64(b, m.dst)
}

// detect tells the layout by the first 24 bytes of a conversation: there is no
// version in it. LayoutUnknown without an error means that it begins with its
// end, whose messages are all zeros in both layouts.
//
// CRIU begins with PARENT (pre-dump) or OPEN2 (dump), of which all is zero but
// the command and dst_id: bytes 16 to 23 are vaddr in the long layout, and in
// the short one dst_id, which is never zero. The padding of the long one may be
// anything. A lazy-pages daemon begins with GET, whose numbers are judged by
// what they could mean.
func detect(first []byte) (Layout, error) {
	short, word := Layout24.decode(first), binary.NativeEndian.Uint64(first[16:])
	switch short.cmd {
	case cmdOpen, cmdOpen2, cmdParent:
		if word == 0 {
			return Layout32, nil
		}
		return Layout24, nil
	case cmdClose, cmdForceClose:
		return LayoutUnknown, nil
	case cmdGet:
		// The long one's nr_pages are where the short one's vaddr is.
		pages := short.vaddr
		is24 := short.pages > 0 && isAddress(short.vaddr) && short.dst > 0 && short.dst < pagestream.PageSize<<10
		is32 := pages > 0 && pages <= MaxPages && isAddress(word)
		if is24 != is32 {
			if is24 {
				return Layout24, nil
			}
			return Layout32, nil
		}
	}
	return LayoutUnknown, fmt.Errorf("first message %s: cannot tell which criu this is, name its layout: %w", short, ErrProtocol)
}

func isAddress(v uint64) bool {
	return v > 0 && v%pagestream.PageSize == 0 && v < pagestream.MaxAddress
}

// Types of a dst_id (criu/page-xfer.c, encode_pm); those of CRIU before 3.3
// are not known here.
const (
	typeBits  = 8
	typePID   = 1
	typeShmem = 2
)

// spaceOf takes a dst_id apart, id<<8 | type.
func spaceOf(container uint16, dst uint64) (pagestream.Space, error) {
	s := pagestream.Space{Container: container, ID: dst >> typeBits}
	switch dst & (1<<typeBits - 1) {
	case typePID:
		s.Kind = pagestream.Process
	case typeShmem:
		s.Kind = pagestream.Shared
	default:
		return s, fmt.Errorf("dst_id %#x is of an unknown type: %w", dst, ErrProtocol)
	}
	if err := s.Valid(); err != nil {
		return s, fmt.Errorf("dst_id %#x: %w: %w", dst, err, ErrProtocol)
	}
	return s, nil
}

// dstOf is the dst_id of a space.
func dstOf(s pagestream.Space) uint64 {
	kind := uint64(typePID)
	if s.Kind == pagestream.Shared {
		kind = typeShmem
	}
	return s.ID<<typeBits | kind
}
