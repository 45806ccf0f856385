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

// NewRedis expects a redis with that many keys of ValueSize bytes at address,
// host:port.
func NewRedis(address string, keys uint32) *Store {
	return newStore(address, keys, dialect{
		name: "redis", greet: ping, set: appendSet, get: appendGet, stored: readOK, value: readBulk,
	})
}

// ping asks whether a redis answers at all: a frozen one accepts connections
// and says nothing.
func ping(conn net.Conn) error {
	if _, err := io.WriteString(conn, "*1\r\n$4\r\nPING\r\n"); err != nil {
		return err
	}
	var answer [7]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if string(answer[:]) != "+PONG\r\n" {
		return errors.New("no pong")
	}
	return nil
}

// NewPinger asks a redis at address, host:port, for nothing but an answer.
func NewPinger(address string) *Asker { return NewAsker(address, true, ping) }

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

func readOK(replies *bufio.Reader) error {
	line, err := replies.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.Equal(line, []byte("+OK\r\n")) {
		return fmt.Errorf("redis answered %q", bytes.TrimSpace(line))
	}
	return nil
}

// readBulk reads one bulk string; nil for none.
func readBulk(replies *bufio.Reader, buf []byte) ([]byte, error) {
	line, err := replies.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '$' {
		return nil, fmt.Errorf("redis answered %q", line)
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n > 1<<20 {
		return nil, fmt.Errorf("redis answered %q", line)
	}
	if n < 0 {
		return nil, nil
	}
	if cap(buf) < n+2 {
		buf = make([]byte, n+2)
	}
	buf = buf[:n+2]
	if _, err := io.ReadFull(replies, buf); err != nil {
		return nil, err
	}
	return buf[:n], nil
}
