package wire

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Errors by which a caller may decide.
var (
	// ErrClosed is returned by calls on a session after Close.
	ErrClosed = errors.New("session is closed")
	// ErrHung says that the peer has neither stored nor received anything
	// for the session's timeout while it should have.
	ErrHung = errors.New("peer makes no progress")
	// ErrProtocol says that the peer sent what the protocol does not allow.
	ErrProtocol = errors.New("protocol error")
	// ErrChecksum says that a frame's checksum does not fit its bytes.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrMismatch says that two nodes have no version, page size or feature
	// set in common.
	ErrMismatch = errors.New("nodes do not match")
	// ErrCredentials says that a node's own certificate files are unusable.
	ErrCredentials = errors.New("unusable credentials")
	// ErrShutdown says that the listener of the receiving side was closed.
	ErrShutdown = errors.New("node is shutting down")
)

// RemoteError is an error that the peer's side reported: of its Receiver, of
// its checks of what arrived, or the argument of its Abort.
type RemoteError struct {
	Peer string // node name
	Text string // at most MaxText bytes, printable
}

func (e *RemoteError) Error() string { return fmt.Sprintf("peer %s: %s", e.Peer, e.Text) }

// RefusedError is Dial's error when the peer does not take the session.
type RefusedError struct {
	Peer string // node name
	Text string // at most MaxText bytes, printable
}

func (e *RefusedError) Error() string { return fmt.Sprintf("peer %s refused: %s", e.Peer, e.Text) }

// boundedText cuts a text to MaxText bytes at a character's boundary.
func boundedText(s string) string {
	if len(s) <= MaxText {
		return s
	}
	cut := MaxText
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// peerText makes a text from a peer fit for logs and terminals: bounded, valid
// UTF-8, no control characters.
func peerText(b []byte) string {
	s := strings.ToValidUTF8(string(b[:min(len(b), MaxText)]), "?")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	return boundedText(s)
}
