package precopy

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Rule names how it is decided when the rounds end.
type Rule string

// The rules.
const (
	// Default ends them by the downtime that a freeze would mean now, see
	// decideByDowntime.
	Default Rule = "Default"
	// S0 ends them by the prediction of dirty rates, see decideByS0.
	S0 Rule = "S0"
)

// ErrUnknownRule is wrapped by the error of a rule's name that is none.
var ErrUnknownRule = errors.New("unknown rule")

// ParseRule reads the name of a rule in any case; an empty one is Default.
func ParseRule(name string) (Rule, error) {
	for _, r := range []Rule{Default, S0} {
		if strings.EqualFold(name, string(r)) || name == "" {
			return r, nil
		}
	}
	return "", fmt.Errorf("%w %q: use Default or S0", ErrUnknownRule, name)
}

// Policy says when the rounds end. A zero field means its default.
type Policy struct {
	// Rule decides. Beside it MaxRounds and MaxTime hold for each.
	Rule Rule
	// MaxRounds is how many rounds may follow the first full copy.
	MaxRounds int
	// MaxTime is what all rounds together, the first one too, may take. No
	// round is begun that would not fit in; the first one is never cut short.
	MaxTime time.Duration
	// DirtyLimit is the amount of dirty memory, in bytes, that is small
	// enough for the last copy: for S0 its preset amount, and for Default, if
	// it is given, in place of DowntimeLimit. 0, for S0: what the measured rate
	// copies within DefaultLastCopy, and at least MinDirtyLimit.
	DirtyLimit uint64
	// DowntimeLimit is the predicted downtime that is good enough for Default.
	DowntimeLimit time.Duration
	// FirstRounds is S0's N: how many rounds follow the first full copy before
	// anything is judged.
	FirstRounds int
	// OnStall says what happens when the rounds end in vain; empty: StopAndCopy.
	OnStall OnStall
	// Leaves: what is dirty at the freeze is left at the source, see Leave.
	Leaves bool
	// Standstill is what a freeze costs beside the last copy.
	Standstill Standstill
}

// Standstill is the part of the downtime that does not depend on the memory left.
type Standstill struct {
	Freeze  time.Duration
	Dump    time.Duration // beside the last copy
	Restore time.Duration // with the commit, until the pod runs again
}

// Defaults of a Policy.
const (
	DefaultMaxRounds     = 100
	DefaultMaxTime       = 10 * time.Minute
	DefaultDowntimeLimit = 300 * time.Millisecond
	DefaultFirstRounds   = 3
	DefaultLastCopy      = 25 * time.Millisecond
	MinDirtyLimit        = 4 << 20
)

// DefaultStandstill is that of a pod with one container and 1 GiB: its parts hardly
// depend on the memory.
var DefaultStandstill = Standstill{Freeze: 2 * time.Millisecond, Dump: 70 * time.Millisecond, Restore: 70 * time.Millisecond}

func (p Policy) limit(history []RoundStat) uint64 {
	if p.DirtyLimit > 0 {
		return p.DirtyLimit
	}
	return max(MinDirtyLimit, uint64(copyRate(history)*DefaultLastCopy.Seconds()))
}

func (p Policy) maxRounds() int { return orDefault(p.MaxRounds, DefaultMaxRounds) }

func (p Policy) maxTime() time.Duration { return orDefault(p.MaxTime, DefaultMaxTime) }

func (p Policy) firstRounds() int { return orDefault(p.FirstRounds, DefaultFirstRounds) }

func (p Policy) downtimeLimit() time.Duration {
	return orDefault(p.DowntimeLimit, DefaultDowntimeLimit)
}

func (p Policy) standstill() Standstill {
	if p.Standstill == (Standstill{}) {
		return DefaultStandstill
	}
	return p.Standstill
}

func orDefault[T int | time.Duration](value, otherwise T) T {
	if value > 0 {
		return value
	}
	return otherwise
}
