package load

import (
	"errors"
	"io"
	"net"
)

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
