package precopy

import (
	"time"

	"godwit.dev/godwit/pagestream/wire"
)

// A worker's chunk fits in one call of a wire stream: this does not compile
// otherwise.
const _ = uint(wire.MaxData - chunkBytes)

// Over makes a session of the wire one for rounds. Flush may run while other
// packages use the same session's streams for blobs.
func Over(session *wire.Session) Session { return wireSession{session} }

type wireSession struct{ *wire.Session }

func (s wireSession) Stream(i int) Stream { return s.Session.Stream(i) }

// metered is a session that counts what it sends, as the wire's does.
type metered interface{ Stats() wire.Stats }

// wireBytes is how many bytes a session has sent; 0 if it does not count.
func wireBytes(s Session) uint64 {
	if m, ok := s.(metered); ok {
		return m.Stats().WireBytes
	}
	return 0
}

// heldBack is for how long a session has been held back for others: what was not sent then
// says nothing of the link.
func heldBack(s Session) time.Duration {
	if m, ok := s.(metered); ok {
		return m.Stats().Held
	}
	return 0
}

// compresses is what a session says of its compression and why; empty if it does not.
func compresses(s Session) string {
	if c, ok := s.(interface{ Compression() string }); ok {
		return c.Compression()
	}
	return ""
}
