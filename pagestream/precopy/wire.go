package precopy

import (
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
