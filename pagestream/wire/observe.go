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
	// data is compressed, whatever the size of the frames: two pages in 64. As
	// long as nothing compresses, or nothing is compressed, it is doubled up to sampleRarely, so that
	// this memory pays less than one part in a hundred for it.
	sampleEvery  = 64 * pagestream.PageSize
	sampleRarely = 8 * sampleEvery
	// sampleMax is the most bytes of one sample.
	sampleMax = 2 * pagestream.PageSize
	// A rung that is not chosen is tried again now and then: data and machine
	// change, and a measurement may have been spoiled. trialShare is how many times the trial's
	// own length the stream works before the next one, maxTrialPause the longest that this takes,
	// and what is waited for before one of which nothing is to be hoped. The first firstTrials come sooner: what is
	// run for the first time is slow.
	trialShare    = 100
	maxTrialPause = 2 * time.Second
	firstTrials   = 8
)

// observer measures one stream and chooses what its frames are compressed with by what it
// has seen. It belongs to the goroutine that uses the stream.
type observer struct {
	mode      Compression
	now       conditions
	unsampled int // raw bytes since the last sample
	every     int // raw bytes between two samples
	sampler   *lz4.Compressor
	scratch   []byte

	ask        func() (socket, bool) // the kernel; nil: it says nothing
	idle       *idleProcessors
	shares     *shares
	number     int // of the stream
	epoch      epoch
	working    effort        // of epochs, of which it has not been told yet what part of a processor it had
	length     time.Duration // of the epoch, at least
	clock      time.Duration // that the stream has worked
	holds      bottleneck    // in the last epoch
	link, peer limit
	proof      proof
	window     uint64 // bytes that may be under way
	bound      bool   // the link holds the stream back, see boundFor
	free       uint64 // bytes that it has not held back since

	trial    rung          // the next one to be tried again
	triedAt  time.Duration // by clock
	trials   int           // so far
	relative float64       // what rungHigher leaves of what rungZstd does, of the same frames; 0: not known
	asItIs   bool          // the last body was, as it does not compress
	toldOf   told
	told     atomic.Pointer[string] // what explain says; for all goroutines
}

func newObserver(mode Compression, streams, window int) *observer {
	o := &observer{
		mode:   mode,
		window: uint64(window),
		// Before anything is measured: AES-GCM and copies of a modest core.
		now: conditions{
			Sample: 1, Transmit: 1e9, CPU: min(1, float64(runtime.GOMAXPROCS(0))/float64(streams)), Idle: -1, Streams: streams,
		},
		unsampled: sampleEvery,
		every:     sampleEvery,
		trial:     rungLZ4,
		length:    firstEpoch,
	}
	o.link.keep, o.peer.keep = keepLeast, keepLeast
	return o
}

// rung chooses for a body, given as pieces of raw bytes in all.
func (o *observer) rung(body [][]byte, raw uint32) rung {
	o.asItIs = false
	switch {
	case raw == 0 || o.mode == NoCompression:
		return rungNone
	case o.mode == LZ4:
		return rungLZ4
	case o.mode == Zstd:
		return rungZstd
	}
	r := o.chosen(body, raw)
	o.tell(r)
	return r
}

// chosen is what gets the body over soonest.
func (o *observer) chosen(body [][]byte, raw uint32) rung {
	o.unsampled += int(raw)
	if o.unsampled >= o.every {
		o.unsampled = 0
		o.now.Sample = o.sample(body)
		o.every = min(2*o.every, sampleRarely)
	}
	if o.now.Sample >= incompressible {
		o.asItIs = true
		return rungNone
	}
	r := choose(o.now)
	if r != rungNone {
		o.every = sampleEvery
	}
	if r != o.now.Current {
		if o.now.Did[r].Known && o.now.Did[rungZstd].Known {
			from := o.now.Current
			o.proof.begin(from, r, o.now.leaves(from), o.now.leaves(r), o.now.seconds(from))
		}
		o.now.Current = r
	}
	return r
}

// trialDue says which other rung to try on a body that goes with the given one, and whether it is time to.
func (o *observer) trialDue(with rung) (rung, bool) {
	if o.mode != Auto || o.asItIs || !o.now.Did[rungLZ4].Known || !o.now.Did[rungZstd].Known {
		return rungNone, false // choose tries what is not known
	}
	if o.trial == with || o.trial == rungHigher && !o.now.hopeful(rungHigher) {
		o.trial = nextTrial(o.trial)
		return rungNone, false
	}
	pause := maxTrialPause
	if o.now.hopeful(o.trial) {
		p := o.now.Did[o.trial]
		if !p.Known {
			p = o.now.Did[rungZstd]
		}
		pause = min(pause, time.Duration(trialShare*MaxData/p.Speed*float64(time.Second)))
		pause = pause * time.Duration(min(o.trials, firstTrials)) / firstTrials
	}
	if o.clock-o.triedAt < pause {
		return rungNone, false
	}
	r := o.trial
	o.triedAt, o.trial = o.clock, nextTrial(r)
	o.trials++
	return r, true
}

func nextTrial(r rung) rung {
	if r++; r < numRungs {
		return r
	}
	return rungLZ4
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

// compressed takes what compressing a body of raw bytes gave, and the processor's time that it took.
func (o *observer) compressed(r rung, raw, packed int, took time.Duration) {
	ratio := float64(packed) / float64(raw)
	speed := float64(raw) / max(took.Seconds(), 1e-9)
	p := &o.now.Did[r]
	if !p.Known {
		*p = performance{Known: true, Ratio: ratio, Speed: speed}
		return
	}
	const weight = 1.0 / 8
	// Others on the machine may make a measurement slower, nothing makes it
	// faster than the processor is.
	p.Speed = max(speed, p.Speed+(speed-p.Speed)*weight)
	if r != rungHigher || o.relative == 0 {
		p.Ratio += (ratio - p.Ratio) * weight
		o.relate()
		return
	}
	first := &o.now.Did[rungZstd]
	first.Ratio += (ratio/o.relative - first.Ratio) * weight
	o.relate()
}

// compared takes in what two rungs made of one body. The sizes of zstd's levels are a few parts in a
// hundred apart, so that they can only be compared of the same bytes.
func (o *observer) compared(a rung, sizeA int, b rung, sizeB int) {
	if a == rungHigher {
		a, sizeA, b, sizeB = b, sizeB, a, sizeA
	}
	if a != rungZstd || b != rungHigher {
		return
	}
	relative := float64(sizeB) / float64(sizeA)
	if o.relative > 0 {
		relative = o.relative + (relative-o.relative)/4
	}
	o.relative = relative
	o.relate()
}

// relate has the higher level's ratio follow that of the first one.
func (o *observer) relate() {
	if o.relative > 0 {
		o.now.Did[rungHigher].Ratio = o.now.Did[rungZstd].Ratio * o.relative
	}
}
