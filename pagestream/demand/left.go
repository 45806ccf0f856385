package demand

import (
	"encoding/binary"
	"fmt"

	"godwit.dev/godwit/pagestream"
)

// What a frozen pod leaves at the source is told in lists. A list is of one space: version u8,
// kind u8, container u16, id u64, little endian, then for each range two uvarints, the pages
// between it and the one before, or address 0, and its own.
const (
	leftVersion = 1
	leftHeader  = 1 + 1 + 2 + 8
	// MaxList is the most bytes of a list.
	MaxList = 128 << 10
	// maxLeftRange is the most bytes that a range takes.
	maxLeftRange = 2 * binary.MaxVarintLen64
)

// EncodeLeft writes the first of ranges, which ascend and do not overlap, as a list, and
// returns those that had no room.
func EncodeLeft(space pagestream.Space, ranges []pagestream.Range) (list []byte, rest []pagestream.Range) {
	list = append(make([]byte, 0, MaxList), leftVersion, byte(space.Kind))
	list = binary.LittleEndian.AppendUint16(list, space.Container)
	list = binary.LittleEndian.AppendUint64(list, space.ID)
	end := uint64(0)
	for len(ranges) > 0 && len(list)+maxLeftRange <= MaxList {
		r := ranges[0]
		list = binary.AppendUvarint(list, (r.Start-end)/pagestream.PageSize)
		list = binary.AppendUvarint(list, r.Pages)
		end, ranges = r.End(), ranges[1:]
	}
	return list, ranges
}

// DecodeLeft reads a list. Its ranges are valid, ascend and do not overlap, and there is one at least.
func DecodeLeft(list []byte) (pagestream.Space, []pagestream.Range, error) {
	bad := func(format string, args ...any) (pagestream.Space, []pagestream.Range, error) {
		return pagestream.Space{}, nil, fmt.Errorf("list of pages left at the source: "+format+": %w", append(args, ErrProtocol)...)
	}
	if len(list) <= leftHeader || len(list) > MaxList {
		return bad("%d bytes", len(list))
	}
	if list[0] != leftVersion {
		return bad("version %d, this node reads %d", list[0], leftVersion)
	}
	space := pagestream.Space{
		Kind: pagestream.SpaceKind(list[1]), Container: binary.LittleEndian.Uint16(list[2:]), ID: binary.LittleEndian.Uint64(list[4:]),
	}
	if space.Valid() != nil || space.Kind != pagestream.Process {
		return bad("space %s", space)
	}
	var ranges []pagestream.Range
	end := uint64(0)
	for b := list[leftHeader:]; len(b) > 0; {
		gap, n := binary.Uvarint(b)
		if n <= 0 || gap > pagestream.MaxAddress/pagestream.PageSize {
			return bad("range %d", len(ranges))
		}
		b = b[n:]
		pages, n := binary.Uvarint(b)
		if n <= 0 {
			return bad("range %d", len(ranges))
		}
		b = b[n:]
		r := pagestream.Range{Start: end + gap*pagestream.PageSize, Pages: pages}
		if r.Valid() != nil {
			return bad("range %d: %d pages at %#x", len(ranges), r.Pages, r.Start)
		}
		ranges, end = append(ranges, r), r.End()
	}
	return space, ranges, nil
}
