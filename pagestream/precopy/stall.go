package precopy

import (
	"errors"
	"fmt"
	"strings"
)

// OnStall says what becomes of a migration whose rounds end although a freeze would take
// longer than the downtime limit.
type OnStall string

const (
	// StopAndCopy freezes the pod all the same.
	StopAndCopy OnStall = "StopAndCopy"
	// Abort breaks the migration off: the pod runs on where it is.
	Abort OnStall = "Abort"
	// SlowDown, called Throttle, holds the pod back by its Brake, step by step, until the
	// rounds converge, and freezes it all the same when it cannot be held back further.
	SlowDown OnStall = "Throttle"
	// PostCopy freezes the pod and leaves what is dirty at the source, see Leave.
	PostCopy OnStall = "PostCopy"
)

// ErrUnknownOnStall is wrapped by the error of a name that is none of OnStall's.
var ErrUnknownOnStall = errors.New("unknown way to deal with a stall")

// ParseOnStall reads a name of OnStall in any case; an empty one is StopAndCopy.
func ParseOnStall(name string) (OnStall, error) {
	for _, o := range []OnStall{StopAndCopy, Abort, SlowDown, PostCopy} {
		if name == "" || strings.EqualFold(name, string(o)) {
			return o, nil
		}
	}
	return "", fmt.Errorf("%w %q: use StopAndCopy, Abort, Throttle or PostCopy", ErrUnknownOnStall, name)
}

// ErrStalled is wrapped by the error of rounds that ended in vain.
var ErrStalled = errors.New("the pod writes faster than its memory can be copied")

// ErrSlowFreeze is wrapped by the error of rounds after which even a freeze without anything
// left to copy would take longer than the limit.
var ErrSlowFreeze = errors.New("freezing, dumping and restoring the pod alone takes longer than the downtime limit")

// ErrUntracked is wrapped by the error of rounds that would have ended well but for memory that
// cannot be tracked, all of which the last copy has to carry.
var ErrUntracked = errors.New("too much of the pod's memory cannot be tracked (the shim's log says of which process, and why)")

// Stalled tells whether the rounds end although a freeze would take longer than the limit.
// An amount of dirty memory that was asked for and is reached is no stall.
func (d Decision) Stalled() bool {
	return d.Stop && d.Reason != BelowLimit && d.Forecast.Downtime > d.DowntimeLimit
}

// stalled is what rounds end with that ended so, and are to be broken off.
func (d Decision) stalled(policy Policy) error {
	if policy.OnStall != Abort || !d.Stalled() {
		return nil
	}
	why := ErrStalled
	switch {
	case policy.downtime(0) > d.DowntimeLimit:
		why = ErrSlowFreeze
	case policy.without(d.Forecast, d.Forecast.Untracked) <= d.DowntimeLimit:
		why = ErrUntracked
	}
	return fmt.Errorf("%w: %s; allow a longer downtime limit, or let it stop and copy", why, d.Explain())
}
