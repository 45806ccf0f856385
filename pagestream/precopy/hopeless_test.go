package precopy

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

// scatter is a pod of so many MiB whose pages have all the same chance to be written, and a link
// that carries so many a second, over which a round takes trip longer.
type scatter struct {
	memory, link float64
	trip         time.Duration
	// writes is how many MiB a second it writes at a time after the first copy.
	writes func(since time.Duration) float64
}

// play is the sorted rounds of the pod until they end, and how many MiB they sent with the last copy.
func (p scatter) play(policy Policy) (history []RoundStat, d Decision, sent float64) {
	pages := func(mib float64) uint64 { return uint64(mib * 256) }
	var now time.Duration
	clean := p.memory // MiB
	pass := func(t time.Duration, first time.Duration) {
		const step = 10 * time.Millisecond
		for at := time.Duration(0); at < t; at += step {
			clean *= math.Exp(-p.writes(now-first) / p.memory * min(step, t-at).Seconds())
			now += min(step, t-at)
		}
	}
	first := time.Duration(p.memory/p.link*float64(time.Second)) + p.trip
	left, window, look := 0.0, time.Duration(0), false
	for {
		s := RoundStat{Number: len(history), Scan: time.Millisecond, Window: window}
		send := p.memory
		if s.Number > 0 {
			dirty := p.memory - clean
			room := Slice(history, pages(dirty))
			if look {
				room = Look(history, pages(dirty))
			}
			send = min(dirty, float64(room)/256)
			s.Sorted, s.Before, s.Lost = true, pages(left), pages(dirty-left)
			left = dirty - send
			s.Pages, s.Behind = s.Lost, pages(left)
		} else {
			s.Pages = pages(p.memory)
		}
		s.Copied.Sent = pages(send)
		s.Copy = p.trip + time.Duration(send/p.link*float64(time.Second))
		clean = p.memory - left
		sent += send
		pass(s.Duration(), first)
		history = append(history, s)
		if d = Decide(history, policy); d.Stop {
			return history, d, sent + p.memory - clean
		}
		pass(d.Wait, first)
		window, look = s.Duration()+d.Wait, d.Wait > 0
	}
}

func TestTheRoundsOfAPodWithoutAChanceEndSoon(t *testing.T) {
	steady := func(rate float64) func(time.Duration) float64 { return func(time.Duration) float64 { return rate } }
	burst := func(rate float64, length time.Duration) func(time.Duration) float64 {
		return func(since time.Duration) float64 {
			if since < length {
				return rate
			}
			return 0.1
		}
	}
	for _, c := range []struct {
		name   string
		pod    scatter
		want   Reason
		copies float64 // of the memory at most
		took   float64 // seconds after the first copy at most
	}{
		{"far faster than the link", scatter{128, 23, 20 * time.Millisecond, steady(1000)}, NoProgress, 2.3, 3},
		{"and with much memory", scatter{4096, 23, 20 * time.Millisecond, steady(10000)}, NoProgress, 2.2, 60},
		{"as fast as the link, it gains from rounds", scatter{128, 23, 20 * time.Millisecond, steady(30)}, NoProgress, 4, 20},
		{"slower than the link", scatter{128, 23, 20 * time.Millisecond, steady(5)}, ShortDowntime, 2, 10},
		{"in a burst when the first copy ends", scatter{128, 23, 20 * time.Millisecond, burst(1000, time.Second)}, ShortDowntime, 2.2, 10},
	} {
		history, d, sent := c.pod.play(Policy{})
		took := (d.Elapsed - history[0].Duration()).Seconds()
		if d.Reason != c.want || sent > c.copies*c.pod.memory || took > c.took {
			t.Errorf("%s: %.0f MiB of %.0f sent in %d rounds and %.1f s more: %s", c.name, sent, c.pod.memory, len(history), took, d.Explain())
		}
	}
}

// untracked is 1 GiB of which little is written, copied at 25 MiB/s, beside so many MiB that cannot
// be tracked; refused of them are of a process that is tried again.
func untracked(untracked, refused float64, rounds int) []RoundStat {
	found := make([]float64, rounds)
	for i := range found {
		found[i] = 0.1
	}
	history := sorted(25, 0, found...)
	for i := range history {
		history[i].Untracked, history[i].Refused = uint64(untracked*mib/pagestream.PageSize), uint64(refused*mib/pagestream.PageSize)
	}
	return history
}

func TestWhatCannotBeTrackedCountsForTheDowntime(t *testing.T) {
	d := Decide(untracked(64, 0, 4), Policy{})
	if s := d.Forecast.Downtime.Seconds(); d.Reason != NoProgress || !d.Stalled() || s < 2.5 || s > 2.8 {
		t.Errorf("%+v", d)
	}
	if !strings.Contains(d.Explain(), "of which 64.0 MiB cannot be tracked") {
		t.Error(d.Explain())
	}
	if err := d.stalled(Policy{OnStall: Abort}); !errors.Is(err, ErrUntracked) || errors.Is(err, ErrStalled) {
		t.Error(err)
	}
	if d := Decide(untracked(1, 0, 4), Policy{}); d.Reason != ShortDowntime {
		t.Errorf("a little: %+v", d)
	}
	if d := Decide(untracked(64, 0, 5), Policy{DirtyLimit: 10 * mib}); d.Reason != NoProgress {
		t.Errorf("an amount that was asked for: %+v", d)
	}
}

func TestAProcessThatWasNotTrackedIsWaitedFor(t *testing.T) {
	for _, policy := range []Policy{{}, {DirtyLimit: 10 * mib}} {
		history := untracked(64, 64, 5)
		if d := Decide(history, policy); d.Stop || d.Wait != calmWait {
			t.Errorf("%+v", d)
		}
		history[3].Window = trackPatience
		if d := Decide(history, policy); d.Reason != NoProgress {
			t.Errorf("for ever: %+v", d)
		}
		if d := Decide(untracked(0, 0, 5), policy); !d.Stop || d.Stalled() {
			t.Errorf("tracked: %+v", d)
		}
	}
	if d := Decide(untracked(1, 1, 5), Policy{}); d.Reason != ShortDowntime {
		t.Errorf("one that makes no difference: %+v", d)
	}
}

func TestAPodIsNotHeldBackForWhatCannotBeTracked(t *testing.T) {
	for _, c := range []struct {
		name    string
		history []RoundStat
		held    bool
	}{
		{"nothing else is left", untracked(64, 0, 4), false},
		{"all of it is written, too", func() []RoundStat {
			history := rounds(25, 128, 128, 128, 128, 128)
			for i := range history {
				history[i].Untracked = 64 * mib / pagestream.PageSize
			}
			return history
		}(), true},
	} {
		brake := &scriptedBrake{limit: 1}
		policy := Policy{OnStall: SlowDown}
		r := newTestRounds(t, Config{Tracker: newScripted(t, 1), Session: newSink(1), Policy: policy, Brake: brake})
		if d := r.decide(c.history, policy); len(brake.steps) > 0 != c.held || d.Stop == c.held {
			t.Errorf("%s: steps %v, %+v", c.name, brake.steps, d)
		}
	}
}
