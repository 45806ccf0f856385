package demand

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"godwit.dev/godwit/pagestream"
)

// The hello: magic 8 bytes, version u32, container u32, token 32 bytes, length of the
// migration's name u32, and the name. The welcome: magic 8 bytes, version u32, length of a
// text u32, and the text, which is empty if the connection is taken.
const (
	helloMagic   = "GODWITDM"
	welcomeMagic = "GODWITDW"
	helloSize    = 8 + 4 + 4 + 32 + 4
	welcomeSize  = 8 + 4 + 4
)

// ErrVersion is wrapped by the error about a peer that speaks another version.
var ErrVersion = errors.New("the nodes' versions of fetching missing pages differ; install the same godwit on both")

// Hello says whose pages a connection is for.
type Hello struct {
	Version   uint32
	Container uint32 // its number in the pod
	Token     [32]byte
	Migration string
}

// Encode writes the hello.
func (h Hello) Encode() []byte {
	b := append(make([]byte, 0, helloSize+len(h.Migration)), helloMagic...)
	b = binary.LittleEndian.AppendUint32(b, h.Version)
	b = binary.LittleEndian.AppendUint32(b, h.Container)
	b = append(b, h.Token[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.Migration)))
	return append(b, h.Migration...)
}

// ReadHello reads a hello, of any version.
func ReadHello(r io.Reader) (Hello, error) {
	var b [helloSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Hello{}, fmt.Errorf("hello: %w", unexpected(err))
	}
	if string(b[:8]) != helloMagic {
		return Hello{}, fmt.Errorf("not a hello: %w", ErrProtocol)
	}
	h := Hello{Version: binary.LittleEndian.Uint32(b[8:]), Container: binary.LittleEndian.Uint32(b[12:])}
	copy(h.Token[:], b[16:])
	n := binary.LittleEndian.Uint32(b[48:])
	if n == 0 || n > MaxMigration || h.Container >= pagestream.MaxContainers {
		return Hello{}, fmt.Errorf("hello for container %d with a name of %d bytes: %w", h.Container, n, ErrProtocol)
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(r, name); err != nil {
		return Hello{}, fmt.Errorf("hello: %w", unexpected(err))
	}
	h.Migration = string(name)
	return h, nil
}

// RefusedError is why the other side takes no connection.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return "missing pages are not asked for: " + e.Text }

// WriteWelcome takes a connection, or refuses it if why is not empty.
func WriteWelcome(w io.Writer, why string) error {
	if len(why) > MaxText {
		why = why[:MaxText]
	}
	b := append(make([]byte, 0, welcomeSize+len(why)), welcomeMagic...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(why)))
	if _, err := w.Write(append(b, why...)); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	return nil
}

// ReadWelcome reads the answer to a hello. The error is a *RefusedError if there is to be no
// connection, and wraps ErrVersion if the peer speaks another version.
func ReadWelcome(r io.Reader) error {
	var b [welcomeSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("welcome: %w", unexpected(err))
	}
	n := binary.LittleEndian.Uint32(b[12:])
	if string(b[:8]) != welcomeMagic || n > MaxText {
		return fmt.Errorf("welcome: %w", ErrProtocol)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("welcome: %w", unexpected(err))
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != Version {
		return fmt.Errorf("the peer speaks version %d, this node %d: %w", v, Version, ErrVersion)
	}
	if n > 0 {
		return &RefusedError{string(text)}
	}
	return nil
}
