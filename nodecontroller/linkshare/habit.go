package linkshare

import "time"

// Use is what a migration has taken over some time.
type Use struct {
	Bytes float64
	Over  time.Duration
	// Active is for how long of it there was something to send; 0: that is not known.
	Active time.Duration
	// Throttled is for how long its frames have waited for its share.
	Throttled time.Duration
}

// Habit is what a migration would take of the link, as far as its use tells. The zero
// value is that of one of which nothing is known.
type Habit struct {
	// Want is as in Claim.
	Want float64
	// Idle is for how long it has had nothing to send, up to now.
	Idle time.Duration
}

const (
	// throttledPart is the part of its time from which on who waits for its share
	// wants more.
	throttledPart = 1.0 / 20
	// headroom is how much more than it took one may want the next moment, and
	// headroomPart the part of the link that it may want besides.
	headroom     = 1.25
	headroomPart = 1.0 / 32
	// soon is the least time over which a rate is taken: that a burst may take so long does
	// not hurt it, and what it keeps free of the link nobody has between bursts.
	soon = 100 * time.Millisecond
	// rest is how long a pause may be, between the rounds of a pod that waits for its turn,
	// for what comes after it to be like what was before.
	rest = time.Second
)

// Next is the habit after one more use of a link: it wants more than it got if it had to
// wait, else about what it took while it had something to send. In pauses it wants what it
// wanted before; after a long one hardly anything.
func (h Habit) Next(link float64, u Use) Habit {
	switch {
	case u.Over <= 0:
		return h
	case u.Throttled.Seconds() > throttledPart*u.Over.Seconds():
		return Habit{}
	case u.Bytes > 0:
		active := u.Over
		if u.Active > 0 {
			active = min(u.Active, active)
		}
		return Habit{Want: headroom*u.Bytes/max(active, soon).Seconds() + max(1, headroomPart*link)}
	}
	h.Idle += u.Over
	if h.Idle > rest {
		h.Want = max(1, headroomPart*link)
	}
	return h
}
