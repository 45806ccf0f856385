package lazy

import (
	"time"

	"godwit.dev/godwit/pagestream/demand"
)

const (
	// maxWindow bounds the background's pages under way.
	maxWindow = 6144
	// hasteFor is how long after a process began to wait others are expected to.
	hasteFor = time.Second
	// rateEvery is how often the rate is looked at, rateSamples of how many looks the best
	// counts: the link can do what it did, and who is not scheduled for a while must not take it for slow.
	rateEvery   = 50 * time.Millisecond
	rateSamples = 8
	// parts is how many requests the background's window is made of, minRequest the least pages of one.
	parts      = 8
	minRequest = 8
)

// slack is how much of the background may be under way beyond what the link itself holds:
// so long does what a process waits for stand behind it.
type slack struct {
	queued time.Duration
	least  uint64 // pages that may be under way whatever the rate
}

var (
	// calmly keeps the link busy, in haste only just: each page that a process waits for may
	// be one of hundreds that it needs one after the other.
	calmly  = slack{40 * time.Millisecond, 4 * demand.MaxPages}
	inHaste = slack{10 * time.Millisecond, demand.MaxPages}
)

// request is one that was asked for, and so its answer.
type request struct {
	process      uint32
	start, pages uint64
}

// flight is a request under way.
type flight struct {
	asked time.Time
	waits bool // a process waits for it
}

// traffic is what is under way on a connection, and what is known of the way.
type traffic struct {
	flights   map[request]flight
	behind    uint64        // pages of the background under way
	roundTrip time.Duration // the least known, of all connections
	rates     [rateSamples]float64
	sample    int
	since     uint64    // pages that have come since sampled
	sampled   time.Time // when the rate was last looked at
	waited    time.Time // when a page was last asked for that a process waits for
}

// restart begins a connection: nothing is under way.
func (t *traffic) restart(now time.Time) {
	t.flights, t.behind = make(map[request]flight), 0
	t.since, t.sampled = 0, now
}

// asked counts a request as under way. One that was asked for in the background before counts as that.
func (t *traffic) asked(r request, waits bool, now time.Time) {
	if waits {
		t.waited = now
	}
	if _, known := t.flights[r]; known {
		return
	}
	t.flights[r] = flight{now, waits}
	if !waits {
		t.behind += r.pages
	}
}

// answered counts a request as under way no more. Pages for which processes wait take nothing off what the
// background has under way, nor do those that nobody asked for.
func (t *traffic) answered(r request, now time.Time) {
	if f, known := t.flights[r]; known {
		delete(t.flights, r)
		if !f.waits {
			t.behind -= r.pages
		}
		if took := max(1, now.Sub(f.asked)); t.roundTrip == 0 || took < t.roundTrip {
			t.roundTrip = took
		}
	}
	t.since += r.pages
	if took := now.Sub(t.sampled); took >= rateEvery {
		t.rates[t.sample%rateSamples] = float64(t.since) / took.Seconds()
		t.sample++
		t.sampled, t.since = now, 0
	}
}

// window is how many pages of the background may be under way.
func (t *traffic) window(now time.Time) uint64 {
	s := calmly
	if now.Sub(t.waited) < hasteFor {
		s = inHaste
	}
	rate := 0.0
	for _, r := range t.rates {
		rate = max(rate, r)
	}
	return min(max(s.least, uint64(rate*(s.queued+t.roundTrip).Seconds())), maxWindow)
}

// room is how many pages the background may ask for now with its next request; 0: none.
func (t *traffic) room(now time.Time) uint64 {
	window := t.window(now)
	n := min(max(window/parts, minRequest), demand.MaxPages)
	if t.behind+n > window {
		return 0
	}
	return n
}
