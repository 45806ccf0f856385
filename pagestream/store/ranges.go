package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"godwit.dev/godwit/pagestream"
)

// A file of ranges, little endian: magic, 8 bytes; how many, u64; for each its start and its pages, u64; CRC-32C of all before, u32.
const (
	rangesHeader  = 16
	rangesTrailer = 4
	rangeSize     = 16
)

func encodeRanges(magic string, ranges []pagestream.Range) []byte {
	b := make([]byte, 0, rangesHeader+rangeSize*len(ranges)+rangesTrailer)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(ranges)))
	for _, r := range ranges {
		b = binary.LittleEndian.AppendUint64(b, r.Start)
		b = binary.LittleEndian.AppendUint64(b, r.Pages)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeRanges reads the file, of no more than so many ranges; these are valid, and nothing else is known of them. Errors wrap ErrIndex.
func decodeRanges(magic string, most uint64, b []byte) ([]pagestream.Range, error) {
	if len(b) < rangesHeader+rangesTrailer || string(b[:8]) != magic {
		return nil, fmt.Errorf("not such a file: %w", ErrIndex)
	}
	n := binary.LittleEndian.Uint64(b[8:])
	if n > most || uint64(len(b)) != rangesHeader+rangeSize*n+rangesTrailer {
		return nil, fmt.Errorf("%d ranges in %d bytes: %w", n, len(b), ErrIndex)
	}
	if crc32.Checksum(b[:len(b)-rangesTrailer], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-rangesTrailer:]) {
		return nil, fmt.Errorf("checksum differs: %w", ErrIndex)
	}
	ranges := make([]pagestream.Range, n)
	for i := range ranges {
		at := b[rangesHeader+rangeSize*i:]
		ranges[i] = pagestream.Range{Start: binary.LittleEndian.Uint64(at), Pages: binary.LittleEndian.Uint64(at[8:])}
		if ranges[i].Valid() != nil {
			return nil, fmt.Errorf("range %d at %#x: %w", i, ranges[i].Start, ErrIndex)
		}
	}
	return ranges, nil
}
