package wire

import "math"

// What is known of a stream when it is chosen with what its next frame is compressed. All
// rates are bytes per second of one stream.
type conditions struct {
	// Sample is the size to which a sample of the frame compressed, relative
	// to its own: 1 is incompressible.
	Sample float64
	// Did is what the rungs did with this stream's frames.
	Did [numRungs]performance
	// Transmit is the rate at which wire bytes are encrypted and handed to
	// the kernel by one processor.
	Transmit float64
	// CPU is the part of a processor that the stream gets while it works, up to 1.
	CPU float64
	// Link is the rate at which the link took the stream's wire bytes when
	// it held the stream back; 0: it is not known to.
	Link float64
	// Receiver is the part of a processor that the stream has at the peer, found when the peer
	// held it back; 0: it is not known to.
	Receiver float64
	// Idle is how many processors of this machine nobody uses; below 0: not known.
	Idle float64
	// Streams is how many streams do the same.
	Streams int
	// Slower are the rungs that a trial of theirs in earnest has shown to be slower than the
	// one before, whatever is predicted.
	Slower [numRungs]bool
	// Current is the rung of the last frame that looked compressible.
	Current rung
}

// performance is what compressing some frames gave.
type performance struct {
	Known bool
	Ratio float64 // compressed size relative to the raw size
	Speed float64 // raw bytes per second of one processor
}

const (
	// incompressible is the sample's ratio from which on nothing is tried.
	// A sample is compressed in itself, so a frame usually does better.
	incompressible = 0.92
	// leastGain is how much sooner a frame must get over to be compressed.
	leastGain = 0.10
	// stay is how much better another codec must be than the current one, stayLevel the same
	// of another level of one codec: their sizes are compared on the same frames.
	stay      = 0.05
	stayLevel = 0.01
	// idleShare is the part of the idle processors that a higher level may take, leastIdle
	// how many must be left once it has them: the pod needs them more.
	idleShare = 0.5
	leastIdle = 0.1
	// The peer decodes so many times as fast as we compress (lz4 8 to 12, zstd's first level
	// 4 to 5 on text, Python's and redis' memory; a higher level is decoded as fast).
	lz4Decodes  = 8
	zstdDecodes = 4
)

// choose picks what gets a frame over soonest. Compression costs this stream's
// part of a processor, and the peer's, and takes bytes off encryption and link; a
// stream is as fast as the slowest of the three, as they wait for each other. A
// codec of which nothing is known is tried.
func choose(c conditions) rung {
	if c.Sample >= incompressible {
		return rungNone
	}
	switch {
	case !c.Did[rungLZ4].Known:
		return rungLZ4
	case !c.Did[rungZstd].Known:
		return rungZstd
	}
	best, least := rungNone, math.Inf(1)
	for _, candidate := range [...]rung{rungNone, rungLZ4, c.level()} {
		if cost := c.cost(candidate); cost < least && !c.Slower[candidate] {
			best, least = candidate, cost
		}
	}
	return best
}

// cost is what choose compares: seconds, with what speaks for the current codec and
// against compression.
func (c conditions) cost(r rung) float64 {
	cost := c.seconds(r)
	if r == rungNone {
		cost *= 1 - leastGain
	}
	if r.codec() == c.Current.codec() {
		cost *= 1 - stay
	}
	return cost
}

// level is the level of zstd that is best if zstd is: a higher one than the first only if the link
// holds the stream back and processors are idle.
func (c conditions) level() rung {
	if !c.Did[rungHigher].Known || c.Slower[rungHigher] || !c.affords(rungHigher) {
		return rungZstd
	}
	first, higher := c.seconds(rungZstd), c.seconds(rungHigher)
	if c.Current == rungHigher {
		higher *= 1 - stayLevel
	} else {
		first *= 1 - stayLevel
	}
	if higher < first {
		return rungHigher
	}
	return rungZstd
}

// affords says whether there are idle processors for a rung that takes more work than the current one.
func (c conditions) affords(r rung) bool {
	if c.Link == 0 || c.Idle < leastIdle {
		return false
	}
	if r == c.Current {
		return true // what it takes is not among the idle ones
	}
	more := 1 / c.Did[r].Speed
	if p := c.Did[c.Current]; p.Known {
		more -= 1 / p.Speed
	}
	return more*float64(c.Streams)/c.seconds(r) <= c.Idle*idleShare
}

// hopeful says whether a rung would be chosen if it did much better than is known of it. If not, there
// is no need to try it.
func (c conditions) hopeful(r rung) bool {
	p := &c.Did[r]
	switch {
	case p.Known:
		p.Speed, p.Ratio = 2*p.Speed, 0.8*p.Ratio
	case r == rungHigher:
		*p = performance{Known: true, Speed: c.Did[rungZstd].Speed / 2, Ratio: 0.95 * c.Did[rungZstd].Ratio}
	}
	return choose(c) == r
}

// seconds predicts the time that a raw byte takes.
func (c conditions) seconds(r rung) float64 {
	work, decoding := 0.0, 0.0
	ratio := c.leaves(r)
	if r != rungNone {
		work = 1 / c.Did[r].Speed
		decoding = c.decoding(r)
	}
	work = (work + ratio/c.Transmit) / c.CPU
	peer := decoding + ratio/c.Transmit // it decrypts as fast as we encrypt
	if c.Receiver > 0 {
		// Fewer bytes would relieve it of decryption, but of nothing else, and it may be on a machine that our own
		// work slows down: no codec counts as less work for it.
		peer = max(peer, 1/c.Transmit) / c.Receiver
	}
	longest := max(work, peer)
	if c.Link > 0 {
		longest = max(longest, ratio/c.Link)
	}
	return longest
}

// leaves is what a rung leaves of a byte.
func (c conditions) leaves(r rung) float64 {
	if r == rungNone {
		return 1
	}
	return c.Did[r].Ratio
}

// decoding is how long the peer's processor takes to decompress a raw byte, roughly.
func (c conditions) decoding(r rung) float64 {
	switch r {
	case rungLZ4:
		return 1 / (lz4Decodes * c.Did[rungLZ4].Speed)
	case rungZstd, rungHigher:
		return 1 / (zstdDecodes * c.Did[rungZstd].Speed)
	}
	return 0
}
