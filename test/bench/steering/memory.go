package steering

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/wire"
)

// kinds are what memory is full of.
var kinds = []struct {
	name string
	fill func([]byte)
}{{"text", fillText}, {"values", fillValues}, {"random", fillRandom}}

// fillText writes words, which compress to a third or less.
func fillText(p []byte) {
	rng := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 512)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", rng.Uint64N(1<<(8+4*rng.UintN(10))))
	}
	for len(p) > 0 {
		p = p[copy(p, words[rng.UintN(512)]):]
	}
}

// fillValues writes what a store of keys and values has in memory: pointers, keys, and values of which every other one is random.
func fillValues(p []byte) {
	rng := rand.New(rand.NewPCG(3, 4))
	chacha := rand.NewChaCha8([32]byte{2})
	value := make([]byte, 32)
	var entry []byte
	for len(p) > 0 {
		entry = entry[:0]
		for range 3 {
			entry = binary.LittleEndian.AppendUint64(entry, 0x7f3a_1200_0000+rng.Uint64N(1<<20)*16)
		}
		entry = fmt.Appendf(entry, "\x15\x0ekey:%010d\x00", rng.Uint64N(1e8))
		if rng.UintN(2) == 0 {
			chacha.Read(value)
			entry = append(entry, value...)
		} else {
			entry = fmt.Appendf(entry, "session:%d:user-agent=Mozilla/5.0;ts=%d", rng.Uint64N(1e6), 17e8+rng.Uint64N(1e7))
		}
		for len(entry)%16 != 0 {
			entry = append(entry, 0)
		}
		p = p[copy(p, entry):]
	}
}

func fillRandom(p []byte) { rand.NewChaCha8([32]byte{1}).Read(p) }

// mapped is memory outside of Go's heap.
func mapped(size int) ([]byte, error) {
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	return m, nil
}

func addressOf(memory []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&memory[0]))) }

// target stores pages where they have their addresses, from base on.
type target struct {
	memory []byte
	base   uint64
}

func (t target) Pages(_ pagestream.Space, vaddr uint64, data []byte) error {
	copy(t.memory[vaddr-t.base:], data)
	return nil
}

func (t target) Zero(_ pagestream.Space, vaddr, pages uint64) error {
	clear(t.memory[vaddr-t.base:][:pages*pagestream.PageSize])
	return nil
}

func (t target) Stored(_ pagestream.Space, vaddr uint64, data []byte) error {
	copy(data, t.memory[vaddr-t.base:])
	return nil
}

func (t target) Blob(uint32, []byte) error { return nil }
func (t target) Closed(error)              {}

var _ wire.Receiver = target{}
