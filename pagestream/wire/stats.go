package wire

import (
	"sync/atomic"
	"time"
)

// Stats counts what a session has sent, all streams together. Counters of
// frames and bytes run from the start of the session.
type Stats struct {
	Pages     uint64 // pages sent with their data
	ZeroPages uint64 // pages sent as entries of a run table
	// DeltaPages were sent as what changed in them, of which DeltaBytes say.
	DeltaPages, DeltaBytes uint64
	Blobs                  uint64
	BlobBytes              uint64 // before compression
	RawBytes               uint64 // of pages and blobs, before compression, without zero pages
	WireBytes              uint64 // of all frames, before encryption
	Acked                  uint64 // of WireBytes, stored by the peer

	// Frames with a body, by codec.
	FramesPlain, FramesLZ4, FramesZstd uint64

	// Time that calls on streams spent waiting, summed over the streams.
	Blocked   time.Duration // for the peer to make room in the window
	Throttled time.Duration // for the bandwidth limit
	Writing   time.Duration // in the kernel's writes, which may wait for the link

	// Of the whole session, in which streams that do the same count once.
	Active time.Duration // time in which it had something to send, or to be stored
	Held   time.Duration // time in which bulk was held back, see Session.SetShare
}

// counters are a stream's part of Stats.
type counters struct {
	pages, zeroPages, blobs, blobBytes, raw, wire atomic.Uint64
	deltaPages, deltaBytes                        atomic.Uint64
	frames                                        [numCodecs]atomic.Uint64
	blocked, throttled, writing                   atomic.Int64
}

func (c *counters) addTo(s *Stats) {
	s.Pages += c.pages.Load()
	s.ZeroPages += c.zeroPages.Load()
	s.DeltaPages += c.deltaPages.Load()
	s.DeltaBytes += c.deltaBytes.Load()
	s.Blobs += c.blobs.Load()
	s.BlobBytes += c.blobBytes.Load()
	s.RawBytes += c.raw.Load()
	s.WireBytes += c.wire.Load()
	s.FramesPlain += c.frames[codecNone].Load()
	s.FramesLZ4 += c.frames[codecLZ4].Load()
	s.FramesZstd += c.frames[codecZstd].Load()
	s.Blocked += time.Duration(c.blocked.Load())
	s.Throttled += time.Duration(c.throttled.Load())
	s.Writing += time.Duration(c.writing.Load())
}
