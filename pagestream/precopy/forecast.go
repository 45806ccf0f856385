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
	// Untracked is what no round can carry, bytes.
	Untracked uint64
	// Last is what the last copy would have to carry, with Left and Untracked, and
	// LastCopy how long it would take at the measured rate.
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
	// Again is what would become dirty meanwhile, bytes, if the pod goes on as it did.
	Again uint64
}

// tracked is what the last copy would have to carry of what rounds can carry as well, bytes.
func (f Forecast) tracked() float64 { return float64(f.Last - f.Untracked) }

// forecast foresees the freeze and the next round. There is at least one round.
//
// A page that every round finds again is found however short the round is. Rounds that
// sort their pages leave those out, and they count in full; of what the destination has, as
// much becomes dirty again as last time, see again. Rounds that do not sort may find nothing
// but such pages, and the first one that sorts cannot tell: then what it found counts in full.
// What Next expects of one more round is what it may bring at best: pages that are written
// every second are not written every tenth of one, and shorter rounds will tell.
func forecast(history []RoundStat, policy Policy) Forecast {
	last := history[len(history)-1]
	whole := float64(history[0].Bytes())
	f := Forecast{DirtyRate: last.DirtyRate(), Left: last.Left(), Untracked: pageBytes(last.Untracked)}
	found := float64(last.Bytes())
	if last.Sorted {
		found = float64(pageBytes(last.Fresh))
		f.DirtyRate = perSecond(pageBytes(last.Lost), last.Window)
	}
	since := last.Duration()
	dirty := again(history, whole-float64(f.Left), since)
	cooled := float64(pageBytes(last.Hot)) * (1 - ratio(since, last.Window))
	waiting := dirty + cooled + float64(pageBytes(last.Behind))
	next := waiting
	if last.Sorted {
		next = min(waiting, float64(pageBytes(Slice(history, uint64(waiting)/pagestream.PageSize))))
	}
	f.Dirty = uint64(next)
	f.Duration = last.Scan + copyTime(f.Dirty, history)
	f.Again = uint64(again(history, whole-float64(f.Left)-dirty+next, f.Duration))
	left := float64(f.Left - min(last.Saved, f.Left))
	switch {
	case last.Number == 0: // nothing is known: all of it may be dirty
		f.Last = history[0].Bytes()
	case !last.Sorted:
		f.Last = uint64(min(max(dirty, found), whole))
	case last.Number == 1:
		f.Last = uint64(left + max(dirty, found))
	default:
		f.Last = uint64(left + dirty)
	}
	after := left + dirty - next + min(written(found, f.Duration, last.Window), whole)
	if !last.Sorted {
		after = max(after, min(dirty, found))
	}
	f.Last += f.Untracked
	f.LastCopy = last.Scan + copyTime(f.Last, history)
	f.Downtime = policy.downtime(f.LastCopy)
	f.Next = policy.downtime(last.Scan + copyTime(uint64(max(after, 0))+f.Untracked, history))
	return f
}

// again is how much of what the destination has, bytes, is expected to be written in a time.
//
// The last round that sorted its pages knows of how many that the destination had how many were
// written: the others have the same chance in each part of its window. Where that is little, the
// pages that it sent tell more: they were written a moment ago.
func again(history []RoundStat, has float64, in time.Duration) float64 {
	last := history[len(history)-1]
	whole := float64(history[0].Bytes())
	if !last.Sorted {
		return min(written(float64(last.Bytes()), in, last.Window), whole)
	}
	least := min(written(float64(pageBytes(last.Fresh)), in, last.Window), whole)
	had := whole - float64(pageBytes(last.Before))
	if had <= 0 || has <= 0 || last.Window <= 0 {
		return least
	}
	kept := 1 - min(1, float64(pageBytes(last.Lost))/had)
	return max(least, has*(1-math.Pow(kept, in.Seconds()/last.Window.Seconds())))
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

// without is the downtime of a forecast if so many bytes of its last copy were not.
func (p Policy) without(f Forecast, bytes uint64) time.Duration {
	return p.downtime(time.Duration(float64(f.LastCopy) * (1 - float64(bytes)/max(float64(f.Last), 1))))
}

// ratio is a/b, at most 1.
func ratio(a, b time.Duration) float64 {
	if a >= b {
		return 1
	}
	return float64(a) / float64(b)
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
