package wire

// What is known of a stream when the codec of its next frame is chosen. All
// rates are bytes per second of one stream.
type conditions struct {
	// Sample is the size to which a sample of the frame compressed, relative
	// to its own: 1 is incompressible.
	Sample float64
	// LZ4 and Zstd are what the codecs did with this stream's frames.
	LZ4, Zstd performance
	// Link is the rate at which the peer took the stream's wire bytes while
	// it was held back by the link or the peer; 0: it is not held back.
	Link float64
	// Transmit is the rate at which wire bytes are encrypted and handed to
	// the kernel by one core.
	Transmit float64
	// CPU is the part of a core that the stream has, up to 1.
	CPU float64
	// Current is the codec of the last frame that looked compressible.
	Current codec
}

// performance is what compressing some frames with a codec gave.
type performance struct {
	Known bool
	Ratio float64 // compressed size relative to the raw size
	Speed float64 // raw bytes per second of one core
}

const (
	// incompressible is the sample's ratio from which on nothing is tried.
	// A sample is compressed in itself, so a frame usually does better.
	incompressible = 0.92
	// leastGain is how much sooner a frame must get over to be compressed.
	leastGain = 0.10
	// stay is how much better another codec must be than the current one.
	stay = 0.05
)

// choose picks the codec that gets a frame over soonest. Compression costs
// this stream's part of a core and takes bytes off encryption and link; a
// stream is as fast as the slower of the two, as one waits for the other. A
// codec of which nothing is known is tried.
func choose(c conditions) codec {
	if c.Sample >= incompressible {
		return codecNone
	}
	switch {
	case !c.LZ4.Known:
		return codecLZ4
	case !c.Zstd.Known:
		return codecZstd
	}
	plain := c.seconds(performance{Ratio: 1})
	cost := [numCodecs]float64{
		codecNone: plain * (1 - leastGain),
		codecLZ4:  c.seconds(c.LZ4),
		codecZstd: c.seconds(c.Zstd),
	}
	cost[c.Current] *= 1 - stay
	best := codecNone
	for candidate := codecLZ4; candidate < numCodecs; candidate++ {
		if cost[candidate] < cost[best] {
			best = candidate
		}
	}
	return best
}

// seconds predicts the time that a raw byte takes. Speed 0 means that there
// is nothing to compress.
func (c conditions) seconds(p performance) float64 {
	work := p.Ratio / c.Transmit
	if p.Speed > 0 {
		work += 1 / p.Speed
	}
	work /= c.CPU
	if c.Link > 0 {
		return max(work, p.Ratio/c.Link)
	}
	return work
}
