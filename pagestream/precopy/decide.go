package precopy

import (
	"fmt"
	"log/slog"
	"time"

	"godwit.dev/godwit/pagestream"
)

// RoundStat is what is known of a round after its copy.
type RoundStat struct {
	Number int // 0 is the first full copy
	// Pages is how many pages of processes the tracker found: everything
	// present in round 0, what was written since the round before in a later one.
	Pages uint64
	// Sorted says that the round did not send all that is dirty, see Sorting. Hot of
	// the pages were left out as they are written all the time, and Behind as they did
	// not fit in; Fresh of Pages were sent.
	Sorted             bool
	Hot, Behind, Fresh uint64
	// Lost of the pages that it found were at the destination as they were, and Before were
	// not, as the round before left them out.
	Lost, Before uint64
	// Saved is how many bytes of those left out the last copy is expected not to carry, as
	// it sends what changed in them.
	Saved uint64
	// Untracked is how many pages the tracker cannot track. The last copy takes them,
	// whatever the rounds do. Refused of them are of processes that are tried again by
	// the next round.
	Untracked, Refused uint64
	// Window is the time in which they became dirty: from the collection
	// before to this one. 0 in round 0.
	Window time.Duration
	Scan   time.Duration // taken by the collection
	// Stood is how long processes stood still for the round: the sum over
	// those that were stopped one after the other.
	Stood  time.Duration
	Copy   time.Duration // taken from its end until all pages found were stored
	Copied CopyStats     // the outcome
	// Held is how much of Copy the session was held back for others that had to have the
	// link.
	Held time.Duration
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

// Left is how many bytes the round left out.
func (s RoundStat) Left() uint64 { return pageBytes(s.Hot + s.Behind) }

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
	// ShortDowntime: the predicted downtime is below the limit, and a further round
	// would not make it much shorter.
	ShortDowntime Reason = "predicted downtime below the limit"
	// NoProgress: a further round would not make the downtime shorter.
	NoProgress Reason = "dirty memory no longer shrinks"
	// RoundsSpent: Policy.MaxRounds is reached.
	RoundsSpent Reason = "all rounds spent"
	// TimeSpent: the next round would not fit in Policy.MaxTime.
	TimeSpent Reason = "time spent"
)

// Decision is whether the rounds end, why, and all that it was decided by.
type Decision struct {
	Stop   bool
	Reason Reason
	Rule   Rule
	// Wait is how long to wait before the next round, as the pod writes more at the
	// moment than it has at others.
	Wait     time.Duration
	Limit    uint64 // bytes; the dirty limit that applies
	Forecast Forecast
	S0       S0Inputs // of that rule alone
	// Elapsed is the time since the first copy began, and MaxTime the limit.
	Elapsed, MaxTime time.Duration
	DowntimeLimit    time.Duration
	// Throttle is how far the pod is held back from here on.
	Throttle Throttle
}

// Decide judges the rounds so far, of which there is at least one.
func Decide(history []RoundStat, policy Policy) Decision { return judge(history, 0, policy) }

// judge decides by round 0 and those from round since on; as long as there are none of
// these, the rounds go on within their limits.
func judge(history []RoundStat, since int, policy Policy) Decision {
	judged := history
	if since > 0 && since < len(history) {
		judged = append(history[:1:1], history[since:]...)
	}
	d := Decision{
		Rule: policy.Rule, Limit: policy.limit(judged), Forecast: forecast(judged, policy),
		Elapsed: elapsed(history), MaxTime: policy.maxTime(), DowntimeLimit: policy.downtimeLimit(),
	}
	switch {
	case policy.Rule == S0:
		d.S0 = s0Inputs(judged, policy)
		d.S0.Elapsed = d.Elapsed
		if since < len(history) {
			d.Reason = decideByS0(d.S0)
		}
	default:
		d.Rule = Default
		if since < len(history) {
			d.Reason, d.Wait = decideByDowntime(judged, policy)
		}
	}
	switch {
	case d.Reason != GoOn:
	case len(history)-1 >= policy.maxRounds():
		d.Reason = RoundsSpent
	case d.Elapsed+d.Wait+d.Forecast.Duration >= d.MaxTime:
		d.Reason = TimeSpent
	}
	if d.Stop = d.Reason != GoOn; d.Stop {
		d.Wait = 0
	}
	return d
}

// Explain says in a sentence why the rounds end, and by what figures. It is empty if
// they go on.
func (d Decision) Explain() string {
	if !d.Stop {
		return ""
	}
	if d.Reason == InVain {
		return string(InVain) + ": the rest is left at the source"
	}
	held := ""
	if d.Throttle.Of > 0 {
		held = ", " + d.Throttle.String()
	}
	if d.Rule == S0 {
		s := d.S0
		return fmt.Sprintf("%s: rule S0, round %d of at least %d, %s dirty (preset %s), %s predicted from %s/s corrected by %s/s, %s of %s spent%s",
			d.Reason, s.M, s.N, size(float64(s.Dirty)), size(float64(s.Preset)), size(float64(s.Predicted)), size(s.Initial),
			size(-s.Correction), spent(d.Elapsed), d.MaxTime, held)
	}
	f := d.Forecast
	untracked := ""
	if f.Untracked > 0 {
		untracked = fmt.Sprintf(", of which %s cannot be tracked", size(float64(f.Untracked)))
	}
	return fmt.Sprintf("%s: downtime of %s predicted (limit %s), %s for the last %s%s, %s after one more round, %s of %s spent%s", d.Reason,
		spent(f.Downtime), d.DowntimeLimit, spent(f.LastCopy), size(float64(f.Last)), untracked, spent(f.Next), spent(d.Elapsed), d.MaxTime, held)
}

// inputs is a decision for the log.
func (d Decision) inputs() []any {
	f := d.Forecast
	attrs := []any{"rule", string(d.Rule), "reason", string(d.Reason), "wait", d.Wait, "elapsed", d.Elapsed, "max_time", d.MaxTime,
		"dirty_limit", d.Limit, "downtime", f.Downtime, "downtime_limit", d.DowntimeLimit, "downtime_next", f.Next,
		"last_bytes", f.Last, "last_copy", f.LastCopy, "left_bytes", f.Left, "untracked_bytes", f.Untracked, "again_bytes", f.Again, "dirty_rate", int64(f.DirtyRate)}
	if d.Throttle.Of > 0 {
		attrs = append(attrs, "throttled_cores", d.Throttle.Cores, "of_cores", d.Throttle.Of)
	}
	if d.Rule == S0 {
		s := d.S0
		attrs = append(attrs, slog.Group("s0", "m", s.M, "n", s.N, "dirty", s.Dirty, "preset", s.Preset, "initial", int64(s.Initial),
			"correction", int64(s.Correction), "rate", int64(s.Rate), "took", s.Took, "predicted", s.Predicted))
	}
	return attrs
}

// size writes bytes for people.
func size(bytes float64) string { return fmt.Sprintf("%.1f MiB", bytes/(1<<20)) }

// spent writes a time for people.
func spent(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// elapsed is the time from the beginning of round 0 to the end of the last one.
func elapsed(history []RoundStat) time.Duration {
	sum := history[len(history)-1].Duration()
	for _, s := range history {
		sum += s.Window
	}
	return sum
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

// copyRate is the measured rate of copying while it was not held back, bytes a second; 0
// if nothing was copied. The rounds that moved the most say the most: a small round's time is
// that of its barrier, not of its pages.
func copyRate(history []RoundStat) float64 {
	const enough = 16 << 20
	var bytes uint64
	var took time.Duration
	for i := len(history) - 1; i >= 0 && bytes < 4*enough; i-- {
		s := history[i]
		sent := s.Copied.Carried()
		if i > 0 && sent < enough {
			continue
		}
		bytes += sent
		took += s.Copy - s.Held
	}
	return perSecond(bytes, took)
}

func perSecond(bytes uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(bytes) / d.Seconds()
}
