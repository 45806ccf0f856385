package precopy

import (
	"time"

	"godwit.dev/godwit/pagestream"
)

// Policy says when the rounds end. A zero field means its default.
type Policy struct {
	// MaxRounds is how many rounds may follow the first full copy.
	MaxRounds int
	// MaxTime is what all rounds together, the first one too, may take. No
	// round is begun that would not fit in; the first one is never cut short.
	MaxTime time.Duration
	// DirtyLimit is the amount of dirty memory, in bytes, that is small
	// enough for the last copy. 0: what the measured rate copies within
	// DefaultLastCopy, and at least MinDirtyLimit.
	DirtyLimit uint64
}

// Defaults of a Policy.
const (
	DefaultMaxRounds = 30
	DefaultMaxTime   = 10 * time.Minute
	DefaultLastCopy  = 25 * time.Millisecond
	MinDirtyLimit    = 4 << 20
)

// shrinkBy is the share by which the dirty memory must have shrunk for a round
// to count as progress, and shrinkRounds how many rounds in a row must fail to
// do so: a single one may be noise.
const (
	shrinkBy     = 0.1
	shrinkRounds = 2
)

// RoundStat is what is known of a round after its copy.
type RoundStat struct {
	Number int // 0 is the first full copy
	// Pages is how many pages of processes the tracker found: everything
	// present in round 0, the dirty pages in a later one.
	Pages uint64
	// Untracked is how many pages the tracker cannot track. The last copy
	// takes them, whatever the rounds do, so no round is decided by them.
	Untracked uint64
	// Window is the time in which they became dirty: from the collection
	// before to this one. 0 in round 0.
	Window time.Duration
	Scan   time.Duration // taken by the collection
	// Stood is how long processes stood still for the round: the sum over
	// those that were stopped one after the other.
	Stood  time.Duration
	Copy   time.Duration // taken from its end until all pages found were stored
	Copied CopyStats     // the outcome
	// SharedCopy is what looking at shared memory took after that, 0 in most
	// rounds, and SharedCopied its outcome.
	SharedCopy   time.Duration
	SharedCopied CopyStats
	// WireBytes is what the session sent meanwhile, before encryption: with
	// what others sent on it, and 0 if it does not count.
	WireBytes uint64
}

// Bytes is the size of the memory found.
func (s RoundStat) Bytes() uint64 { return s.Pages * pagestream.PageSize }

// Duration is how long the whole round took.
func (s RoundStat) Duration() time.Duration { return s.Scan + s.Copy + s.SharedCopy }

// DirtyRate is the rate, in bytes a second, at which memory became dirty
// before the round; 0 for round 0, before which nothing was watched.
func (s RoundStat) DirtyRate() float64 { return perSecond(s.Bytes(), s.Window) }

// Reason says why the rounds end.
type Reason string

// The reasons.
const (
	// GoOn: they do not.
	GoOn Reason = ""
	// BelowLimit: the dirty memory is below the limit.
	BelowLimit Reason = "dirty memory below the limit"
	// NoProgress: the dirty memory no longer shrinks.
	NoProgress Reason = "dirty memory no longer shrinks"
	// RoundsSpent: Policy.MaxRounds is reached.
	RoundsSpent Reason = "all rounds spent"
	// TimeSpent: the next round would not fit in Policy.MaxTime.
	TimeSpent Reason = "time spent"
)

// Forecast is what is expected of the round that would come next.
type Forecast struct {
	DirtyRate float64       // bytes a second
	Dirty     uint64        // bytes that would be found if collected now
	Duration  time.Duration // of the round
}

// Decision is whether the rounds end, why, and what was expected.
type Decision struct {
	Stop     bool
	Reason   Reason
	Limit    uint64 // bytes; the dirty limit that was applied
	Forecast Forecast
}

// Predictor tells the rate at which memory will become dirty in the round that
// comes next, in bytes a second, from the rounds so far, of which there is at
// least one.
type Predictor interface {
	DirtyRate(history []RoundStat) float64
}

// LastRate predicts that the rate stays what it was before the last round.
type LastRate struct{}

// DirtyRate implements Predictor.
func (LastRate) DirtyRate(history []RoundStat) float64 {
	return history[len(history)-1].DirtyRate()
}

// decide judges the rounds so far, of which there is at least one.
//
// The limit is compared with what the last round found and also with what is
// expected now. One alone would mislead: a hot set that is written over and
// over is found again however short the round, so that rate times time is too
// low, and a round that took longer than the one before leaves more dirty
// behind than it found.
func decide(history []RoundStat, policy Policy, predictor Predictor) Decision {
	last := history[len(history)-1]
	d := Decision{Limit: policy.limit(history), Forecast: forecast(history, predictor)}
	var elapsed time.Duration
	for _, s := range history {
		elapsed += s.Duration()
	}
	known := last.Number > 0 // round 0 says nothing of the dirty rate
	switch {
	case last.Bytes() <= d.Limit && d.Forecast.Dirty <= d.Limit && known:
		d.Reason = BelowLimit
	case !shrinks(history):
		d.Reason = NoProgress
	case len(history)-1 >= policy.maxRounds():
		d.Reason = RoundsSpent
	case elapsed+d.Forecast.Duration >= policy.maxTime():
		d.Reason = TimeSpent
	}
	d.Stop = d.Reason != GoOn
	return d
}

// shrinks tells whether one of the last rounds found clearly less memory than
// the best one before them.
func shrinks(history []RoundStat) bool {
	n := len(history) - shrinkRounds
	if n < 1 {
		return true
	}
	before, lately := least(history[:n]), least(history[n:])
	return float64(lately) <= float64(before)*(1-shrinkBy)
}

func least(history []RoundStat) uint64 {
	m := history[0].Pages
	for _, s := range history[1:] {
		m = min(m, s.Pages)
	}
	return m
}

// forecast expects that the next round finds what becomes dirty at the
// predicted rate while the last round lasted, never more than there was to
// find in round 0, and copies it at the rate measured.
func forecast(history []RoundStat, predictor Predictor) Forecast {
	last := history[len(history)-1]
	f := Forecast{DirtyRate: max(predictor.DirtyRate(history), 0)}
	f.Dirty = min(uint64(f.DirtyRate*last.Duration().Seconds()), history[0].Bytes())
	f.Duration = last.Scan + copyTime(f.Dirty, history)
	return f
}

// copyTime is how long the copy of so many bytes is expected to take at the
// measured rate.
func copyTime(bytes uint64, history []RoundStat) time.Duration {
	rate := copyRate(history)
	if rate == 0 {
		return 0
	}
	return time.Duration(float64(bytes) / rate * float64(time.Second))
}

// copyRate is the measured rate of copying, bytes a second; 0 if nothing was
// copied. The rounds that moved the most say the most: a small round's time is
// that of its barrier, not of its pages.
func copyRate(history []RoundStat) float64 {
	const enough = 16 << 20
	var bytes uint64
	var took time.Duration
	for i := len(history) - 1; i >= 0 && bytes < 4*enough; i-- {
		s := history[i]
		sent := s.Copied.Sent * pagestream.PageSize
		if i > 0 && sent < enough {
			continue
		}
		bytes += sent
		took += s.Copy
	}
	return perSecond(bytes, took)
}

func (p Policy) limit(history []RoundStat) uint64 {
	if p.DirtyLimit > 0 {
		return p.DirtyLimit
	}
	return max(MinDirtyLimit, uint64(copyRate(history)*DefaultLastCopy.Seconds()))
}

func (p Policy) maxRounds() int {
	if p.MaxRounds > 0 {
		return p.MaxRounds
	}
	return DefaultMaxRounds
}

func (p Policy) maxTime() time.Duration {
	if p.MaxTime > 0 {
		return p.MaxTime
	}
	return DefaultMaxTime
}

// remaining is how long the rounds that are still to come are expected to
// take, were each to go as forecast. It assumes what LastRate does.
func remaining(history []RoundStat, policy Policy, f Forecast) time.Duration {
	limit := policy.limit(history)
	rounds := policy.maxRounds() - (len(history) - 1)
	scan := history[len(history)-1].Scan
	var sum time.Duration
	dirty := f.Dirty
	for ; rounds > 0; rounds-- {
		took := scan + copyTime(dirty, history)
		sum += took
		next := uint64(f.DirtyRate * took.Seconds())
		if dirty <= limit || next >= dirty || sum > policy.maxTime() {
			break
		}
		dirty = next
	}
	return min(sum, policy.maxTime())
}

func perSecond(bytes uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(bytes) / d.Seconds()
}
