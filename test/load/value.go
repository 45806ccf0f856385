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

// appendSet appends a SET command in redis' protocol.
func appendSet(dst []byte, key, write uint32) []byte {
	var name [16]byte
	k := appendKey(name[:0], key)
	dst = append(dst, "*3\r\n$3\r\nSET\r\n$"...)
	dst = strconv.AppendInt(dst, int64(len(k)), 10)
	dst = append(append(append(dst, "\r\n"...), k...), "\r\n$"...)
	dst = strconv.AppendInt(dst, ValueSize, 10)
	dst = append(dst, "\r\n"...)
	at := len(dst)
	dst = append(dst, make([]byte, ValueSize)...)
	fillValue(dst[at:], key, write)
	return append(dst, "\r\n"...)
}

// appendGet appends a GET command.
func appendGet(dst []byte, key uint32) []byte {
	var name [16]byte
	k := appendKey(name[:0], key)
	dst = append(dst, "*2\r\n$3\r\nGET\r\n$"...)
	dst = strconv.AppendInt(dst, int64(len(k)), 10)
	return append(append(append(dst, "\r\n"...), k...), "\r\n"...)
}
