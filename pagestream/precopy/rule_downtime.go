package precopy

import (
	"math"
	"time"
)

// A round must be expected to shorten the downtime by minGain and by gainShare to be worth
// its bytes. Expectations were wrong if gainRounds rounds have not made it shorter by clearly;
// of rounds that sort their pages, as they are small, if these have sent as much as gainBytes
// of the memory as well, or were smallRounds.
const (
	minGain     = 2 * time.Millisecond
	gainShare   = 0.02
	gainRounds  = 3
	gainBytes   = 0.4
	smallRounds = 8
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

// A round is in vain if as much as vainGain of what it sends is dirty again when it ends. Where
// as much as allShare of what was dirty after the first copy still is, or is again, nothing
// would be lost by a freeze: then the pod is looked at, by rounds that carry next to nothing, for
// a share of the downtime, lookFor, and for calmPatience at most, with calmWait between two or so
// long that looks of them are enough, as the number of rounds is limited. It may be in a burst.
const (
	vainGain = 0.75
	allShare = 0.9
	lookFor  = 0.25
	looks    = 8
)

// trackPatience is for how long a process is waited for that could not be tracked and is tried
// again: that is enough for some tries (see retryUnreachable of package track).
const trackPatience = 5 * time.Second

// decideByDowntime ends the rounds when a further one is not expected to shorten the
// downtime: at once if it is below the limit, and else when no better moment is to be
// expected. It says how long to wait for one.
func decideByDowntime(history []RoundStat, policy Policy) (Reason, time.Duration) {
	if history[len(history)-1].Number == 0 {
		return GoOn, 0 // it says nothing of what is written
	}
	if policy.DirtyLimit > 0 {
		return decideByAmount(history, policy)
	}
	f := forecast(history, policy)
	best, since := bestMoment(history, policy)
	short := f.Downtime <= policy.downtimeLimit()
	promising := worthwhile(f.Downtime, f.Next, gainShare)
	hopeless, lookedFor := false, time.Duration(0)
	if !short && writing(f, policy) && inVain(history, f) {
		hopeless, lookedFor = nothingGained(history, policy)
	}
	switch {
	case promising && !hopeless && !fruitless(history, since):
		return GoOn, 0
	case short:
		return ShortDowntime, 0
	case hopeless && lookedFor < patience(f):
		return GoOn, max(calmWait, patience(f)/looks)
	case calm(history, f.Downtime, best), awaited(history, f, policy):
		if promising && history[len(history)-1].Sorted && !inVain(history, f) {
			return GoOn, 0
		}
		return GoOn, calmWait
	}
	return NoProgress, 0
}

// inVain tells whether most of what the next round sends is expected to be dirty again when it
// ends. Rounds that do not sort cannot tell.
func inVain(history []RoundStat, f Forecast) bool {
	return history[len(history)-1].Sorted && float64(f.Again) >= vainGain*float64(f.Dirty)
}

// nothingGained tells whether about as much is dirty as was after the first copy, and for how
// long it has been so, or was not seen to be otherwise.
func nothingGained(history []RoundStat, policy Policy) (so bool, since time.Duration) {
	all := forecast(history[:2], policy).tracked()
	for n := len(history); n > 1; n-- {
		if forecast(history[:n], policy).tracked() < allShare*all {
			break
		}
		if so = true; n > 2 {
			since += history[n-1].Window
		}
	}
	return so, since
}

// patience is for how long a pod is looked at of which no round brings anything.
func patience(f Forecast) time.Duration {
	return min(time.Duration(lookFor*float64(f.Downtime)), calmPatience)
}

// awaited tells whether the next round may track a process that the last ones could not, and
// that would make a difference.
func awaited(history []RoundStat, f Forecast, policy Policy) bool {
	var waited time.Duration
	for i := len(history) - 1; i > 1 && history[i].Refused > 0; i-- {
		waited += history[i].Window
	}
	refused := pageBytes(history[len(history)-1].Refused)
	return waited < trackPatience && worthwhile(f.Downtime, policy.without(f, refused), clearly)
}

// decideByAmount ends the rounds when little enough would be left for the last copy, or
// when gainRounds of them have not made it clearly less.
func decideByAmount(history []RoundStat, policy Policy) (Reason, time.Duration) {
	least, since := uint64(math.MaxUint64), 0
	for n := 2; n <= len(history); n++ {
		last := forecast(history[:n], policy).Last
		if last <= policy.DirtyLimit && n == len(history) {
			return BelowLimit, 0
		}
		since++
		if float64(last) < float64(least)*(1-clearly) {
			least, since = last, 0
		}
	}
	switch {
	case since < gainRounds:
		return GoOn, 0
	case awaited(history, forecast(history, policy), policy):
		return GoOn, calmWait
	}
	return NoProgress, 0
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
// and how many rounds have ended since it was clearly shorter than before.
func bestMoment(history []RoundStat, policy Policy) (best time.Duration, since int) {
	var mark time.Duration // the downtime when it was
	for n := 2; n <= len(history); n++ {
		d := forecast(history[:n], policy).Downtime
		since++
		if n == 2 || worthwhile(mark, d, clearly) {
			mark, since = d, 0
		}
		if n == 2 || d < best {
			best = d
		}
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
// would not shorten the downtime by much, or not at all, and it is about as short as the rounds
// promised when they ended.
func settled(recent []RoundStat, policy Policy, promised, waited time.Duration) bool {
	f := forecast(recent, policy)
	if waited >= settleLimit {
		return true
	}
	gains := worthwhile(f.Downtime, f.Next, gainShare) && !inVain(recent, f)
	return !gains && float64(f.Downtime)*(1-calmShare) <= float64(promised)
}
