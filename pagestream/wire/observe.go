package wire

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/pierrec/lz4/v4"

	"godwit.dev/godwit/pagestream"
)

const (
	// sampleEvery is the number of raw bytes of which one sample is taken while
	// data compresses, whatever the size of the frames: two pages in 64. As
	// long as nothing compresses it is doubled up to sampleRarely, so that
	// incompressible memory pays less than one part in a hundred for it.
	sampleEvery  = 64 * pagestream.PageSize
	sampleRarely = 8 * sampleEvery
	// sampleMax is the most bytes of one sample.
	sampleMax = 2 * pagestream.PageSize
	// A codec that is not chosen is tried again now and then: data and machine
	// change, and a measurement may have been spoiled by others on the
	// machine. trialShare is how many times the trial's own length the stream
	// works before the next one, maxTrialPause the longest that this takes.
	trialShare    = 50
	maxTrialPause = 2 * time.Second
	// epochLength and epochBytes are the least over which the link is measured.
	epochLength = 50 * time.Millisecond
	epochBytes  = 64 << 10
	// heldBack is the part of an epoch's time from which on a stream that
	// waits counts as held back by the link.
	heldBack = 0.3
	// kernelCopy is how fast the kernel takes bytes when it has room, in
	// bytes per second. What is slower is waiting.
	kernelCopy = 2.5e9
)

// observer measures one stream and chooses its codecs by what it has seen. It
// belongs to the goroutine that uses the stream.
type observer struct {
	mode      Compression
	now       conditions
	unsampled int // raw bytes since the last sample
	every     int // raw bytes between two samples
	sampler   *lz4.Compressor
	scratch   []byte

	epoch  transmission // sum since the link was last measured
	window uint64       // bytes that may be under way
	bound  bool         // the link holds the stream back, see boundFor
	free   uint64       // bytes that it has not held back since

	trial      codec         // the next one to be tried again
	sinceTrial time.Duration // that the stream has worked

	toldOf told
	told   atomic.Pointer[string] // what explain says; for all goroutines
}

func newObserver(mode Compression, streams, window int) *observer {
	cpu := min(1, float64(runtime.GOMAXPROCS(0))/float64(streams))
	return &observer{
		mode:   mode,
		window: uint64(window),
		// Before anything is measured: AES-GCM and copies of a modest core.
		now:       conditions{Sample: 1, Transmit: 1e9, CPU: cpu},
		unsampled: sampleEvery,
		every:     sampleEvery,
		trial:     codecLZ4,
	}
}

// codec chooses for a body, given as pieces of raw bytes in all.
func (o *observer) codec(body [][]byte, raw uint32) codec {
	switch {
	case raw == 0 || o.mode == NoCompression:
		return codecNone
	case o.mode == LZ4:
		return codecLZ4
	case o.mode == Zstd:
		return codecZstd
	}
	c := o.chosen(body, raw)
	o.tell(c)
	return c
}

// chosen is what gets the body over soonest, or is tried again.
func (o *observer) chosen(body [][]byte, raw uint32) codec {
	o.unsampled += int(raw)
	if o.unsampled >= o.every {
		o.unsampled = 0
		o.now.Sample = o.sample(body)
		o.every = min(2*o.every, sampleRarely)
	}
	if o.now.Sample >= incompressible {
		return codecNone
	}
	o.every = sampleEvery
	if c, due := o.trialDue(); due {
		return c
	}
	o.now.Current = choose(o.now)
	return o.now.Current
}

// trialDue says which codec to try again, and whether it is time to.
func (o *observer) trialDue() (codec, bool) {
	p := o.now.LZ4
	if o.trial == codecZstd {
		p = o.now.Zstd
	}
	if !o.now.LZ4.Known || !o.now.Zstd.Known {
		return codecNone, false // choose tries what is not known
	}
	took := time.Duration(MaxData / p.Speed * float64(time.Second))
	if o.sinceTrial < min(trialShare*took, maxTrialPause) {
		return codecNone, false
	}
	c := o.trial
	o.sinceTrial = 0
	o.trial = codecLZ4 + codecZstd - c
	return c, true
}

// sample compresses up to two pages' worth from the middle of the first and
// of the last piece and returns the ratio.
func (o *observer) sample(body [][]byte) float64 {
	if o.sampler == nil {
		o.sampler, o.scratch = new(lz4.Compressor), make([]byte, sampleMax)
	}
	var raw, packed int
	for i, piece := range [][]byte{body[0], body[len(body)-1]} {
		n := min(len(piece), pagestream.PageSize)
		from := (len(piece) - n) / (2 + i) // two places even if there is one piece
		part := piece[from : from+n]
		size, err := o.sampler.CompressBlock(part, o.scratch[:n])
		if err != nil || size == 0 {
			size = n
		}
		raw += n
		packed += size
	}
	return float64(packed) / float64(raw)
}

// compressed takes what compressing a body of raw bytes gave.
func (o *observer) compressed(c codec, raw, packed int, took time.Duration) {
	p := &o.now.LZ4
	if c == codecZstd {
		p = &o.now.Zstd
	}
	ratio := float64(packed) / float64(raw)
	speed := float64(raw) / max(took.Seconds(), 1e-9)
	if !p.Known {
		*p = performance{Known: true, Ratio: ratio, Speed: speed}
		return
	}
	const weight = 1.0 / 8
	p.Ratio += (ratio - p.Ratio) * weight
	// Others on the machine make a measurement slower, nothing makes it
	// faster than the core is.
	p.Speed = max(speed, p.Speed+(speed-p.Speed)*weight)
}

// transmission is what sending one frame took.
type transmission struct {
	wire    uint64        // bytes of the frame
	total   time.Duration // the whole of it, with compression
	waited  time.Duration // for the window and the limit
	kernel  time.Duration // in system calls
	sealing time.Duration // in encryption
}

// transmitted takes what sending a frame took. Time between calls, in which
// the caller was busy elsewhere, does not count.
func (o *observer) transmitted(t transmission) {
	o.sinceTrial += t.total
	o.epoch.wire += t.wire
	o.epoch.total += t.total
	o.epoch.sealing += t.sealing
	o.epoch.waited += t.waited
	if unhindered := time.Duration(float64(t.wire) / kernelCopy * float64(time.Second)); t.kernel > unhindered {
		o.epoch.waited += t.kernel - unhindered
	}
	e := o.epoch
	if e.total < epochLength || e.wire < epochBytes {
		return
	}
	o.now.Link = 0
	held := e.waited.Seconds() > heldBack*e.total.Seconds()
	if held {
		o.now.Link = float64(e.wire) / e.total.Seconds()
	}
	o.now.Transmit = 1 / (e.sealing.Seconds()/float64(e.wire) + 1/kernelCopy)
	o.noteBound(o.now.slowLink(), e.wire)
	o.epoch = transmission{}
}
