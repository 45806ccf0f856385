package store

import (
	"errors"
	"hash/crc32"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func indexFile(pages uint64, runs ...sealedRun) []byte {
	var body []byte
	for _, r := range runs {
		body = appendRun(body, r)
	}
	h := indexHeader{space: proc(1), entries: uint64(len(runs)), pages: pages, crc: crc32.Checksum(body, castagnoli)}
	return append(h.encode(), body...)
}

func TestDecodeIndexRejectsRunsThatCannotBe(t *testing.T) {
	for name, b := range map[string][]byte{
		"overlap":        indexFile(9, sealedRun{0x1000, 2, 0}, sealedRun{0x2000, 1, 2}),
		"empty":          indexFile(9, sealedRun{0x1000, 0, 0}),
		"off a page":     indexFile(9, sealedRun{0x1001, 1, 0}),
		"over the top":   indexFile(9, sealedRun{pagestream.MaxAddress - 4096, 2, zeroSlot}),
		"behind the end": indexFile(9, sealedRun{0x1000, 2, 8}),
		"too much data":  indexFile(1 << 40),
	} {
		if _, _, err := decodeIndex(b); !errors.Is(err, ErrIndex) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, runs, err := decodeIndex(indexFile(9, sealedRun{0x1000, 9, 0}, sealedRun{0xa000, 1 << 30, zeroSlot})); err != nil || len(runs) != 2 {
		t.Fatalf("a good index: %v", err)
	}
}

func FuzzDecodeIndex(f *testing.F) {
	f.Add(indexFile(9, sealedRun{0x1000, 9, 0}, sealedRun{0xa000, 1 << 30, zeroSlot}), true)
	f.Add(indexFile(0), false)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix && len(b) >= headerSize {
			// Let the fuzzer behind the checksums.
			h := indexHeader{space: proc(1), entries: uint64(len(b)-headerSize) / runSize, pages: 1 << 20,
				crc: crc32.Checksum(b[headerSize:], castagnoli)}
			copy(b, h.encode())
		}
		h, runs, err := decodeIndex(b)
		if err != nil {
			if !errors.Is(err, ErrIndex) {
				t.Fatalf("error without ErrIndex: %v", err)
			}
			return
		}
		sp := &SealedSpace{Name: h.space, runs: runs}
		for i := range runs {
			if got := sp.behind(runs[i].vaddr); got != i {
				t.Fatalf("run %d is found as %d", i, got)
			}
			if got := sp.behind(runs[i].end() - 1); got != i {
				t.Fatalf("end of run %d is found as %d", i, got)
			}
		}
	})
}
