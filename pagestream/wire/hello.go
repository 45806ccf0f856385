package wire

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf8"

	"godwit.dev/godwit/pagestream"
)

// Versions and features that this build speaks. A change of frames that an
// old build cannot read is a new version; what both sides may leave out is a
// feature bit. A build keeps speaking the version before its newest, so that
// a cluster can be upgraded node by node.
const (
	minVersion = 1
	maxVersion = 1
	features   = featureDeltas | featureContents
)

const (
	// featureDeltas: frames of deltas.
	featureDeltas = 1 << 0
	// featureContents: pages of pagestream.Content, of which the receiver makes pages files that are not sent.
	featureContents = 1 << 1
)

// Bounds of what a hello may ask for.
const (
	// MinWindow is the smallest window: a frame in flight, one being made.
	MinWindow = 4 * MaxData
	// MaxWindow is the largest window of one stream.
	MaxWindow = 256 << 20

	minKeepAlive = 10 * time.Millisecond
	maxKeepAlive = 30 * time.Second
)

// Hello is what the dialing side says first on each stream.
type Hello struct {
	// Migration names what the session is for, 1 to MaxMigration bytes of
	// printable UTF-8. It comes from a peer: never a path.
	Migration string
	// Token proves that the dialer was told to come; see TokenIs.
	Token [32]byte
	// Session is chosen at random by the dialer, the same on all its streams.
	Session [16]byte
	// Stream is this stream's number, Streams how many the session has.
	Stream, Streams uint16
	// MinVersion and MaxVersion bound the versions that the dialer speaks.
	MinVersion, MaxVersion uint16
	// Features are bits of what the dialer can do.
	Features uint64
	// PageSize is the dialer's, in bytes.
	PageSize uint32
	// Window is how many bytes the dialer sends unacknowledged.
	Window uint32
	// KeepAlive is how long the dialer is silent at most.
	KeepAlive time.Duration
}

// TokenIs compares the token in constant time.
func (h *Hello) TokenIs(token [32]byte) bool {
	return subtle.ConstantTimeCompare(h.Token[:], token[:]) == 1
}

// A hello and a welcome are a magic number, the length of the rest as u16, and
// the rest. A later version may append fields; what is unknown at the end is
// skipped. This outer form never changes, so any two versions understand each
// other well enough to say what does not match.
const (
	helloMagic   = "GDWH"
	welcomeMagic = "GDWW"
	helloFixed   = 2 + 2 + 2 + 2 + 8 + 4 + 4 + 4 + 16 + 32 + 2
	welcomeFixed = 1 + 1 + 2 + 2 + 2 + 8 + 4 + 2
	maxGreeting  = 4 << 10
)

func (h *Hello) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, helloFixed+len(h.Migration))
	b = le.AppendUint16(b, h.MinVersion)
	b = le.AppendUint16(b, h.MaxVersion)
	b = le.AppendUint16(b, h.Stream)
	b = le.AppendUint16(b, h.Streams)
	b = le.AppendUint64(b, h.Features)
	b = le.AppendUint32(b, h.PageSize)
	b = le.AppendUint32(b, h.Window)
	b = le.AppendUint32(b, uint32(h.KeepAlive/time.Millisecond))
	b = append(b, h.Session[:]...)
	b = append(b, h.Token[:]...)
	b = le.AppendUint16(b, uint16(len(h.Migration)))
	b = append(b, h.Migration...)
	return greeting(helloMagic, b)
}

// decodeHello reads the part after the length. Its fields have neither been
// compared with this node's nor checked. Errors wrap ErrProtocol.
func decodeHello(b []byte) (Hello, error) {
	if len(b) < helloFixed {
		return Hello{}, fmt.Errorf("hello of %d bytes, at least %d expected: %w", len(b), helloFixed, ErrProtocol)
	}
	le := binary.LittleEndian
	h := Hello{
		MinVersion: le.Uint16(b),
		MaxVersion: le.Uint16(b[2:]),
		Stream:     le.Uint16(b[4:]),
		Streams:    le.Uint16(b[6:]),
		Features:   le.Uint64(b[8:]),
		PageSize:   le.Uint32(b[16:]),
		Window:     le.Uint32(b[20:]),
		KeepAlive:  time.Duration(le.Uint32(b[24:])) * time.Millisecond,
		Session:    [16]byte(b[28:44]),
		Token:      [32]byte(b[44:76]),
	}
	n := int(le.Uint16(b[76:]))
	if n > len(b)-helloFixed {
		return Hello{}, fmt.Errorf("hello: name of %d bytes in %d: %w", n, len(b)-helloFixed, ErrProtocol)
	}
	h.Migration = string(b[helloFixed : helloFixed+n])
	return h, nil
}

func (h *Hello) speaker(node string) speaker {
	return speaker{node, h.MinVersion, h.MaxVersion, h.Features, h.PageSize}
}

// check looks whether the fields are within their bounds.

func (h *Hello) check() error {
	switch {
	case h.Streams == 0 || h.Streams > MaxStreams:
		return fmt.Errorf("%d streams, 1 to %d are allowed", h.Streams, MaxStreams)
	case h.Stream >= h.Streams:
		return fmt.Errorf("stream %d of %d", h.Stream, h.Streams)
	case h.Window < MinWindow || h.Window > MaxWindow:
		return fmt.Errorf("window of %d bytes, %d to %d are allowed", h.Window, MinWindow, MaxWindow)
	case h.KeepAlive < minKeepAlive || h.KeepAlive > maxKeepAlive:
		return fmt.Errorf("keepalive every %v, %v to %v are allowed", h.KeepAlive, minKeepAlive, maxKeepAlive)
	}
	return checkMigration(h.Migration)
}

func checkMigration(name string) error {
	if name == "" || len(name) > MaxMigration || !utf8.ValidString(name) {
		return fmt.Errorf("migration's name %q must be 1 to %d bytes of UTF-8", boundedText(name), MaxMigration)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("migration's name %q holds what cannot be printed", name)
		}
	}
	return nil
}

// welcome answers a hello.
type welcome struct {
	refused                bool
	version                uint16 // the one to speak, 0 if refused
	minVersion, maxVersion uint16 // of the answering side
	features               uint64 // that both have
	pageSize               uint32 // of the answering side
	text                   string // why it was refused
}

func (w *welcome) encode() []byte {
	le := binary.LittleEndian
	text := boundedText(w.text)
	b := make([]byte, 2, welcomeFixed+len(text))
	if w.refused {
		b[0] = 1
	}
	b = le.AppendUint16(b, w.version)
	b = le.AppendUint16(b, w.minVersion)
	b = le.AppendUint16(b, w.maxVersion)
	b = le.AppendUint64(b, w.features)
	b = le.AppendUint32(b, w.pageSize)
	b = le.AppendUint16(b, uint16(len(text)))
	b = append(b, text...)
	return greeting(welcomeMagic, b)
}

// decodeWelcome reads the part after the length. Errors wrap ErrProtocol.
func decodeWelcome(b []byte) (welcome, error) {
	if len(b) < welcomeFixed {
		return welcome{}, fmt.Errorf("welcome of %d bytes, at least %d expected: %w", len(b), welcomeFixed, ErrProtocol)
	}
	if b[0] > 1 {
		return welcome{}, fmt.Errorf("welcome with status %d: %w", b[0], ErrProtocol)
	}
	le := binary.LittleEndian
	w := welcome{
		refused:    b[0] == 1,
		version:    le.Uint16(b[2:]),
		minVersion: le.Uint16(b[4:]),
		maxVersion: le.Uint16(b[6:]),
		features:   le.Uint64(b[8:]),
		pageSize:   le.Uint32(b[16:]),
	}
	n := int(le.Uint16(b[20:]))
	if n > len(b)-welcomeFixed {
		return welcome{}, fmt.Errorf("welcome: text of %d bytes in %d: %w", n, len(b)-welcomeFixed, ErrProtocol)
	}
	w.text = peerText(b[welcomeFixed : welcomeFixed+n])
	return w, nil
}

// speaker is one side of a negotiation.
type speaker struct {
	node                   string
	minVersion, maxVersion uint16
	features               uint64
	pageSize               uint32
}

func thisNode(node string) speaker {
	return speaker{node, minVersion, maxVersion, features, pagestream.PageSize}
}

// negotiate finds the version and the features that two nodes both have. The
// error, which wraps ErrMismatch, is meant for both of them: it says who has
// what.
func negotiate(dialer, listener speaker) (version uint16, both uint64, err error) {
	if dialer.pageSize != listener.pageSize {
		return 0, 0, fmt.Errorf("page size: %s has %d bytes, %s has %d: choose a node with the same page size: %w",
			dialer.node, dialer.pageSize, listener.node, listener.pageSize, ErrMismatch)
	}
	version = min(dialer.maxVersion, listener.maxVersion)
	if version < max(dialer.minVersion, listener.minVersion) {
		older := dialer.node
		if listener.maxVersion < dialer.maxVersion {
			older = listener.node
		}
		return 0, 0, fmt.Errorf("protocol version: %s speaks %d to %d, %s speaks %d to %d: upgrade %s: %w",
			dialer.node, dialer.minVersion, dialer.maxVersion,
			listener.node, listener.minVersion, listener.maxVersion, older, ErrMismatch)
	}
	return version, dialer.features & listener.features, nil
}

func greeting(magic string, body []byte) []byte {
	b := append([]byte(magic), 0, 0)
	binary.LittleEndian.PutUint16(b[4:], uint16(len(body)))
	return append(b, body...)
}

// readGreeting reads a hello or welcome up to its end. Errors of the content
// wrap ErrProtocol.
func readGreeting(r io.Reader, magic string) ([]byte, error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if string(head[:4]) != magic {
		return nil, fmt.Errorf("greeting starts with %q, want %q: %w", head[:4], magic, ErrProtocol)
	}
	n := int(binary.LittleEndian.Uint16(head[4:]))
	if n > maxGreeting {
		return nil, fmt.Errorf("greeting of %d bytes, at most %d are allowed: %w", n, maxGreeting, ErrProtocol)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return body, nil
}
