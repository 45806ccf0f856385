package matrix

import (
	"slices"
	"sort"
	"time"
)

// Moments of one move, by the machine's one clock.
type Moments struct {
	// Asked is when the move was asked for; the client had worked for a second by then, at least.
	Asked time.Time
	// Frozen is when the program stopped at the latest, and Runs when it ran again at the latest.
	Frozen, Runs time.Time
	// Ended is when nothing of it was at the source any more.
	Ended time.Time
}

// How long a client is watched before and after a move, besides the move itself.
const (
	Before = time.Second
	After  = 3 * time.Second
)

// Client is what a client saw of one move.
type Client struct {
	// Downtime is the longest time between two answers that reaches into the time from the freeze until the program ran again.
	Downtime time.Duration
	// Worst is the longest time between two answers after that, until a second after the end, or after the downtime if that is later.
	Worst time.Duration
	// LostBefore is the share of answers that the client missed from the asking to its last answer before the downtime, and LostAfter that in
	// the three seconds after the downtime; both compared with the second before the move. Below 0 it got more.
	LostBefore, LostAfter float64
	// Cut is when the downtime began.
	Cut time.Time
}

// settled is how long after a move its effects are looked for.
const settled = time.Second

// See evaluates the moments at which a client was answered, the oldest first. ok is false if there are too few of them to say anything.
func See(answers []time.Time, m Moments) (c Client, ok bool) {
	gap := longest(answers, m.Frozen, m.Runs)
	undisturbed := rate(answers, m.Asked.Add(-Before), m.Asked)
	if gap.end.IsZero() || undisturbed == 0 {
		return c, false
	}
	c.Downtime, c.Cut = gap.length(), gap.begin
	end := m.Ended
	if gap.end.After(end) {
		end = gap.end
	}
	c.Worst = longest(answers, gap.end, end.Add(settled)).length()
	c.LostAfter = 1 - rate(answers, gap.end, gap.end.Add(After))/undisturbed
	if gap.begin.Sub(m.Asked) >= leastRounds {
		c.LostBefore = 1 - rate(answers, m.Asked, gap.begin)/undisturbed
	}
	return c, true
}

// leastRounds is the least time before a freeze in which a rate means something: in cold moves there is almost none.
const leastRounds = 200 * time.Millisecond

type gap struct{ begin, end time.Time }

func (g gap) length() time.Duration { return g.end.Sub(g.begin) }

// longest is the longest time between two answers that reaches into the time between two moments.
func longest(answers []time.Time, from, to time.Time) (worst gap) {
	for i := 1; i < len(answers); i++ {
		g := gap{answers[i-1], answers[i]}
		if g.end.After(from) && g.begin.Before(to) && g.length() > worst.length() {
			worst = g
		}
	}
	return worst
}

// rate is how many answers a second there were from one moment to another.
func rate(answers []time.Time, from, to time.Time) float64 {
	at := func(t time.Time) int {
		return sort.Search(len(answers), func(i int) bool { return !answers[i].Before(t) })
	}
	if !to.After(from) {
		return 0
	}
	return float64(at(to)-at(from)) / to.Sub(from).Seconds()
}

// Sample is how long a client waited for an answer, at a moment.
type Sample struct {
	// AtMS is when the answer came, from the begin of the downtime on, milliseconds.
	AtMS float64 `json:"at_ms"`
	// WaitedMS is how long after the answer before, milliseconds: the longest of 40 ms.
	WaitedMS float64 `json:"waited_ms"`
}

// The time around a cutover that is kept.
const (
	samplesFrom = -2 * time.Second
	samplesTo   = 3 * time.Second
	sampleEvery = 40 * time.Millisecond
)

// Around are the waits of a client around the begin of its downtime.
func Around(answers []time.Time, cut time.Time) []Sample {
	var samples []Sample
	begin, _ := slices.BinarySearchFunc(answers, cut.Add(samplesFrom), time.Time.Compare)
	last := time.Duration(-1 << 62)
	for i := max(begin, 1); i < len(answers); i++ {
		at, waited := answers[i].Sub(cut), answers[i].Sub(answers[i-1])
		if at > samplesTo && len(samples) > 0 && samples[len(samples)-1].AtMS > 0 {
			break
		}
		if slot := at.Truncate(sampleEvery); slot != last || len(samples) == 0 {
			samples, last = append(samples, Sample{AtMS: ms(at)}), slot
		}
		s := &samples[len(samples)-1]
		s.AtMS, s.WaitedMS = ms(at), max(s.WaitedMS, ms(waited))
	}
	return samples
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
