package load

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"
)

// ValueSize is the size of a value in bytes.
const ValueSize = 1024

// fillValue writes the value of one write of one key into dst, ValueSize bytes:
// its number, then bytes that depend on key and number and do not compress. A
// value that is read back is right only if all of it is.
func fillValue(dst []byte, key, write uint32) {
	binary.LittleEndian.PutUint32(dst, write)
	r := rand.NewPCG(uint64(key), uint64(write))
	for at := 8; at < ValueSize; at += 8 {
		binary.LittleEndian.PutUint64(dst[at:], r.Uint64())
	}
	binary.LittleEndian.PutUint32(dst[4:], key)
}

// writeOf says which write of a key a value comes from.
func writeOf(value []byte) (write uint32, ok bool) {
	if len(value) != ValueSize {
		return 0, false
	}
	return binary.LittleEndian.Uint32(value), true
}

// appendKey appends a key's name.
func appendKey(dst []byte, key uint32) []byte {
	return strconv.AppendUint(append(dst, "key:"...), uint64(key), 10)
}
