package precopy

import (
	"math"
	"slices"
	"time"

	"godwit.dev/godwit/pagestream"
)

// Forecast is what is expected if the pod is frozen now, and of the round that would
// come next.
type Forecast struct {
	// DirtyRate is at what rate pages become dirty that are not left out, bytes a
	// second.
	DirtyRate float64
	// Left is what the rounds leave out, bytes.
	Left uint64
	// Last is what the last copy would have to carry, with Left, and LastCopy how
	// long it would take at the measured rate.
	Last     uint64
	LastCopy time.Duration
	// Downtime is that copy beside the dump, with the freeze and the restore.
	Downtime time.Duration
	// Next is the downtime after one more round, if all goes well.
	Next time.Duration
	// Dirty is what the next round would copy, bytes, and Duration how long it
	// would take.
	Dirty    uint64
	Duration time.Duration
}

// forecast foresees the freeze and the next round. There is at least one round.
//
// A page that every round finds again is found however short the round is. Rounds that
// sort their pages leave those out, and they count in full; what they send becomes dirty
// again in proportion to the time. Rounds that do not sort may find nothing but such
// pages, and the first one that sorts cannot tell: then what it found counts in full. What
// is expected of one more round is what it may bring at best: pages that are written every
// second are not written every tenth of one, and shorter rounds will tell.
func forecast(history []RoundStat, policy Policy) Forecast {
	last := history[len(history)-1]
	whole := float64(history[0].Bytes())
	f := Forecast{DirtyRate: last.DirtyRate(), Left: last.Left()}
	found := float64(last.Bytes())
	if last.Sorted {
		found = float64(pageBytes(last.Fresh))
		f.DirtyRate = perSecond(pageBytes(last.Fresh), last.Window)
	}
	since := last.Duration()
	dirty := min(written(found, since, last.Window), whole)
	cooled := float64(pageBytes(last.Hot)) * (1 - ratio(since, last.Window))
	waiting := dirty + cooled + float64(pageBytes(last.Behind))
	next := waiting
	if last.Sorted {
		next = float64(pageBytes(Slice(history, uint64(waiting)/pagestream.PageSize)))
		next = min(next, waiting)
	}
	f.Dirty = uint64(next)
	f.Duration = last.Scan + copyTime(f.Dirty, history)
	left := float64(f.Left - min(last.Saved, f.Left))
	switch {
	case last.Number == 0: // nothing is known: all of it may be dirty
		f.Last = history[0].Bytes()
	case last.Number == 1 || !last.Sorted:
		f.Last = uint64(min(left+max(dirty, found), whole))
	default:
		f.Last = uint64(min(left+dirty, whole))
	}
	after := left + dirty - next + min(written(found, f.Duration, last.Window), whole)
	if !last.Sorted {
		after = max(after, min(dirty, found))
	}
	f.LastCopy = last.Scan + copyTime(f.Last, history)
	f.Downtime = policy.downtime(f.LastCopy)
	f.Next = policy.downtime(last.Scan + copyTime(uint64(max(after, 0)), history))
	return f
}

// concave is the power of the time with which the pages that are written in a shorter time
// become fewer. It would be 1 if no page were written twice, and 0 if all of them always
// were; programs have both, even among pages that are not written in every round.
const concave = 0.7

// written is how much of what was found in a window is expected to be written in another
// time.
func written(found float64, in, window time.Duration) float64 {
	if window <= 0 {
		return 0
	}
	part := in.Seconds() / window.Seconds()
	if part < 1 {
		part = math.Pow(part, concave)
	}
	return found * part
}

// downtime is what a freeze costs with such a last copy.
func (p Policy) downtime(lastCopy time.Duration) time.Duration {
	s := p.standstill()
	return s.Freeze + max(s.Dump, lastCopy) + s.Restore
}

// ratio is a/b, at most 1.
func ratio(a, b time.Duration) float64 {
	if a >= b {
		return 1
	}
	return float64(a) / float64(b)
}

// A round must be expected to shorten the downtime by minGain and by gainShare to be worth
// its bytes. Expectations were wrong if gainRounds rounds have not made it shorter by clearly;
// of rounds that sort their pages, as they are small, if these have sent as much as gainBytes
// of the memory as well, or were smallRounds.
const (
	minGain     = 2 * time.Millisecond
	gainShare   = 0.02
	gainRounds  = 3
	gainBytes   = 0.4
	smallRounds = 15
	clearly     = 0.05
)

// A pod that writes more than it has written at a better moment, when the downtime would
// have been shorter by calmShare, is waited for: with calmWait between two rounds, and for
// calmPatience after the first copy, or once more the time that this has taken.
const (
	calmShare    = 0.25
	calmWait     = 150 * time.Millisecond
	calmPatience = 10 * time.Second
)

// decideByDowntime ends the rounds when a further one is not expected to shorten the
// downtime: at once if it is below the limit, and else when no better moment is to be
// expected. It says how long to wait for one.
func decideByDowntime(history []RoundStat, policy Policy) (Reason, time.Duration) {
	last := history[len(history)-1]
	if last.Number == 0 {
		return GoOn, 0 // it says nothing of what is written
	}
	if policy.DirtyLimit > 0 {
		return decideByAmount(history, policy), 0
	}
	f := forecast(history, policy)
	best, since := bestMoment(history, policy)
	if worthwhile(f.Downtime, f.Next, gainShare) && !fruitless(history, since) {
		return GoOn, 0
	}
	if f.Downtime <= policy.downtimeLimit() {
		return ShortDowntime, 0
	}
	if calm(history, f.Downtime, best) {
		return GoOn, calmWait
	}
	return NoProgress, 0
}

// decideByAmount ends the rounds when little enough would be left for the last copy, or
// when gainRounds of them have not made it clearly less.
func decideByAmount(history []RoundStat, policy Policy) Reason {
	least, since := uint64(math.MaxUint64), 0
	for n := 2; n <= len(history); n++ {
		last := forecast(history[:n], policy).Last
		if last <= policy.DirtyLimit && n == len(history) {
			return BelowLimit
		}
		since++
		if float64(last) < float64(least)*(1-clearly) {
			since = 0
		}
		least = min(least, last)
	}
	if since >= gainRounds {
		return NoProgress
	}
	return GoOn
}

// worthwhile tells whether a downtime would be shorter by a share.
func worthwhile(now, then time.Duration, share float64) bool {
	return now-then > max(minGain, time.Duration(share*float64(now)))
}

// fruitless tells whether the last rounds were enough to see that they bring nothing.
func fruitless(history []RoundStat, last int) bool {
	var sent uint64
	for _, s := range history[len(history)-last:] {
		sent += s.Copied.Sent
	}
	sorted := history[len(history)-1].Sorted
	return last >= gainRounds && (!sorted || last >= smallRounds || float64(sent) >= gainBytes*float64(history[0].Pages))
}

// bestMoment is the shortest downtime that a freeze after one of the rounds promised,
// and how many rounds have ended since without a clearly shorter one.
func bestMoment(history []RoundStat, policy Policy) (best time.Duration, since int) {
	for n := 2; n <= len(history); n++ {
		d := forecast(history[:n], policy).Downtime
		if n == 2 || worthwhile(best, d, clearly) {
			best, since = d, 0
			continue
		}
		best = min(best, d)
		since++
	}
	return best, since
}

// calm tells whether a calmer moment is worth waiting for.
func calm(history []RoundStat, now, best time.Duration) bool {
	var waited time.Duration
	for _, s := range history[1:] {
		waited += s.Window
	}
	waited -= history[0].Duration()
	return float64(best) < float64(now)*(1-calmShare) && waited < max(calmPatience, history[0].Duration())
}

// settleLimit is how long a good moment is waited for when the freeze is asked for.
const settleLimit = 2 * time.Second

// settled tells whether the freeze may come now that it is asked for: a further round
// would not shorten the downtime by much, and it is about as short as the rounds
// promised when they ended.
func settled(recent []RoundStat, policy Policy, promised, waited time.Duration) bool {
	f := forecast(recent, policy)
	if waited >= settleLimit {
		return true
	}
	return !worthwhile(f.Downtime, f.Next, gainShare) && float64(f.Downtime)*(1-calmShare) <= float64(promised)
}

// lately is what a forecast needs of a history: round 0, and the last ones.
func lately(history []RoundStat) []RoundStat {
	const enough = 6
	if len(history) <= enough {
		return slices.Clone(history)
	}
	return append([]RoundStat{history[0]}, history[len(history)-enough+1:]...)
}

// remaining is how long the rounds that are still to come are expected to
// take, were each to go as forecast.
func remaining(history []RoundStat, policy Policy, f Forecast) time.Duration {
	rounds := policy.maxRounds() - (len(history) - 1)
	scan := history[len(history)-1].Scan
	enough := policy.limit(history)
	var sum time.Duration
	dirty := f.Dirty
	for ; rounds > 0; rounds-- {
		took := scan + copyTime(dirty, history)
		sum += took
		next := uint64(f.DirtyRate * took.Seconds())
		if dirty <= enough || next >= dirty || sum > policy.maxTime() {
			break
		}
		dirty = next
	}
	return min(sum, policy.maxTime())
}
