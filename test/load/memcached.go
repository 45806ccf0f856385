package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
)

// NewMemcached expects a memcached with that many keys of ValueSize bytes at
// address, host:port.
func NewMemcached(address string, keys uint32) *Store {
	return newStore(address, keys, dialect{
		name: "memcached", greet: askVersion, set: appendStore, get: appendFetch, stored: readStored, value: readItem,
	})
}

// askVersion asks for what every memcached answers.
func askVersion(conn net.Conn) error {
	if _, err := io.WriteString(conn, "version\r\n"); err != nil {
		return err
	}
	var answer []byte
	for b := make([]byte, 1); len(answer) < 64 && !bytes.HasSuffix(answer, []byte("\r\n")); answer = append(answer, b[0]) {
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
	}
	if !bytes.HasPrefix(answer, []byte("VERSION ")) {
		return errors.New("no version")
	}
	return nil
}

// appendStore appends a set command in memcached's text protocol.
func appendStore(dst []byte, key, write uint32) []byte {
	dst = append(appendKey(append(dst, "set "...), key), " 0 0 "...)
	dst = append(strconv.AppendInt(dst, ValueSize, 10), "\r\n"...)
	at := len(dst)
	dst = append(dst, make([]byte, ValueSize)...)
	fillValue(dst[at:], key, write)
	return append(dst, "\r\n"...)
}

// appendFetch appends a get command.
func appendFetch(dst []byte, key uint32) []byte {
	return append(appendKey(append(dst, "get "...), key), "\r\n"...)
}

func readStored(answers *bufio.Reader) error {
	line, err := answers.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.Equal(line, []byte("STORED\r\n")) {
		return fmt.Errorf("memcached answered %q", bytes.TrimSpace(line))
	}
	return nil
}

// readItem reads the answer to the get of one key; nil for none.
func readItem(answers *bufio.Reader, buf []byte) ([]byte, error) {
	line, err := answers.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	f := bytes.Fields(line)
	if len(f) == 1 && string(f[0]) == "END" {
		return nil, nil
	}
	if len(f) != 4 || string(f[0]) != "VALUE" {
		return nil, fmt.Errorf("memcached answered %q", bytes.TrimSpace(line))
	}
	n, err := strconv.ParseUint(string(f[3]), 10, 20)
	if err != nil {
		return nil, fmt.Errorf("memcached answered %q", bytes.TrimSpace(line))
	}
	const end = "\r\nEND\r\n"
	all := int(n) + len(end)
	if cap(buf) < all {
		buf = make([]byte, all)
	}
	buf = buf[:all]
	if _, err := io.ReadFull(answers, buf); err != nil {
		return nil, err
	}
	if string(buf[n:]) != end {
		return nil, fmt.Errorf("memcached ends a value with %q", buf[n:])
	}
	return buf[:n], nil
}
