package pageserver

import (
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// Round is what one conversation was about.
type Round struct {
	Stats
	// Map says for each space that CRIU opened which pages exist: those that
	// are Present were sent, those in Parent are as the last round had them,
	// and those that are only Lazy were not sent. A page that is in no entry
	// does not exist. Entries ascend, and adjacent ones of the same flags are
	// one; they are what CRIU would have written into the space's pagemap.
	Map map[pagestream.Space][]images.Entry
}

// Stats counts what a conversation carried.
type Stats struct {
	Layout   Layout
	Messages uint64
	Bytes    uint64 // of pages that the client sent

	// Pages.
	Present   uint64 // sent by the client
	Parent    uint64 // left out, as the destination has them
	Lazy      uint64 // left out, to be fetched after the restore
	Sent      uint64 // handed to the streams
	Unchanged uint64 // of shared memory: the destination has them already
	Repaired  uint64 // of Parent: the destination had lacked them
	Served    uint64 // by GET

	// Waited is how long the client was kept waiting for the streams, as all
	// of the buffer was full; Buffered is the most bytes of it in use.
	Waited   time.Duration
	Buffered int64
	// Absorbed is the time from the first message to the last, Drained from
	// there until everything was handed to the streams, Flushed from there
	// until Config.Flush had returned.
	Absorbed, Drained, Flushed time.Duration
}
