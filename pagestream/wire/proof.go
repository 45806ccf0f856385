package wire

import "time"

const (
	// provenIn is how many epochs a change has to show what it brings, after one in which what was
	// sent before it is still on its way.
	provenIn = 3
	// notSlower is the least part of the speed before it that a change must have.
	notSlower = 0.95
	// A rung that was slower is left out for so long; twice as long each time.
	banLeast = 2 * time.Second
	banMost  = time.Minute
)

// pace is how fast bytes went, per second: of memory, and on the wire.
type pace struct{ raw, wire float64 }

// proof compares what was predicted of a change with what comes of it: a rung that is chosen as it
// should be faster and turns out to be slower, for whatever reason, is left out for a while.
type proof struct {
	seen   [numRungs]pace // in the last epochs of each rung; 0: not known
	from   rung
	to     rung
	before pace    // of from
	fewer  float64 // bytes on the wire with to, as a multiple of those with from
	epochs int     // of to that have been seen
	sum    pace
	linked int // epochs of those in which the link held the stream back
	open   bool
	until  [numRungs]time.Duration // banned, by the stream's clock
	pause  [numRungs]time.Duration
}

// begin opens the proof of a change between rungs that are known, given what they leave of a byte, and the time that
// the old one is predicted to take for one: that counts if its pace has not been seen.
func (p *proof) begin(from, to rung, leaves, willLeave, seconds float64) {
	p.open = true
	p.from, p.to, p.fewer = from, to, willLeave/leaves
	p.epochs, p.sum, p.linked = 0, pace{}, 0
	p.before = p.seen[from]
	if p.before.raw == 0 {
		p.before = pace{1 / seconds, leaves / seconds}
	}
}

// epoch takes in an epoch that went with one rung, and whether the link held the stream back in it. It says whether the
// change has failed.
func (p *proof) epoch(r rung, got pace, link bool, now time.Duration) bool {
	if !p.open || r != p.to {
		p.open = p.open && r == p.from
		p.note(r, got)
		return false
	}
	if p.epochs++; p.epochs == 1 {
		return false
	}
	p.sum.raw += got.raw / provenIn
	p.sum.wire += got.wire / provenIn
	if link {
		p.linked++
	}
	if p.epochs <= provenIn {
		return false
	}
	p.open = false
	p.note(r, p.sum)
	if !p.failed() {
		p.pause[r] = 0
		return false
	}
	p.ban(r, now)
	return true
}

// failed compares the paces. Memory does not compress equally well everywhere, so if the link holds the stream back it is looked at
// what is on the wire: as many bytes as before are all that a codec can hope for, and fewer by what it saves are too few.
func (p *proof) failed() bool {
	if 2*p.linked > provenIn {
		return p.sum.wire < notSlower*p.fewer*p.before.wire
	}
	return p.sum.raw < notSlower*p.before.raw
}

func (p *proof) note(r rung, got pace) {
	s := &p.seen[r]
	if s.raw == 0 {
		*s = got
	}
	s.raw += (got.raw - s.raw) / 2
	s.wire += (got.wire - s.wire) / 2
}

func (p *proof) ban(r rung, now time.Duration) {
	p.pause[r] = min(max(2*p.pause[r], banLeast), banMost)
	p.until[r] = now + p.pause[r]
}

func (p *proof) banned(r rung, now time.Duration) bool { return now < p.until[r] }

// noteProof takes in the epoch.
func (o *observer) noteProof() {
	if o.length < epochLength {
		return // too short to tell
	}
	e := &o.epoch
	wire := e.through()
	for r := range numRungs {
		if o.mostly(r) && o.proof.epoch(r, pace{wire * float64(e.all) / float64(e.wire), wire}, o.holds == theLink, o.clock) {
			o.now.Slower[r] = true
		}
	}
}
