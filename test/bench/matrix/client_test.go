package matrix

import (
	"math"
	"testing"
	"time"
)

var zero = time.Unix(1_000_000, 0)

func at(d time.Duration) time.Time { return zero.Add(d) }

// steady are answers every so often from one moment to before another.
func steady(from, to, every time.Duration) []time.Time {
	var all []time.Time
	for d := from; d < to; d += every {
		all = append(all, at(d))
	}
	return all
}

const msec = time.Millisecond

func TestAClientSeesTheGapAroundTheCutoverAndWhatComesAfter(t *testing.T) {
	m := Moments{Asked: at(0), Frozen: at(2000 * msec), Runs: at(2100 * msec), Ended: at(2500 * msec)}
	undisturbed := steady(-2000*msec, 0, msec)
	for name, c := range map[string]struct {
		answers               []time.Time
		downtime, worst       time.Duration
		lostBefore, lostAfter float64
	}{
		"nothing but the downtime": {
			answers:  append(append(undisturbed, steady(0, 2000*msec+1, msec)...), steady(2150*msec, 6000*msec, msec)...),
			downtime: 150 * msec, worst: msec,
		},
		"half of the throughput in the rounds": {
			answers:  append(append(undisturbed, steady(0, 2000*msec+1, 2*msec)...), steady(2150*msec, 6000*msec, msec)...),
			downtime: 150 * msec, worst: msec, lostBefore: 0.5,
		},
		"a long wait in the rounds is no downtime, and one after the end counts": {
			answers: append(append(append(undisturbed, steady(500*msec, 2000*msec+1, msec)...), steady(2150*msec, 3000*msec, msec)...),
				steady(3400*msec, 6000*msec, msec)...),
			downtime: 150 * msec, worst: 401 * msec, lostBefore: 0.25, lostAfter: 400.0 / 3000,
		},
		"a wait long after the end does not count": {
			answers: append(append(append(undisturbed, steady(0, 2000*msec+1, msec)...), steady(2150*msec, 5000*msec, msec)...),
				steady(5400*msec, 6000*msec, msec)...),
			downtime: 150 * msec, worst: msec, lostAfter: 150.0 / 3000,
		},
		"the downtime ends after the move": {
			answers:  append(append(append(undisturbed, steady(0, 2000*msec+1, msec)...), steady(9000*msec, 9100*msec, msec)...), steady(9200*msec, 15_000*msec, msec)...),
			downtime: 7000 * msec, worst: 101 * msec, lostAfter: 100.0 / 3000,
		},
	} {
		got, ok := See(c.answers, m)
		if !ok {
			t.Errorf("%s: nothing was seen", name)
			continue
		}
		if got.Downtime != c.downtime || got.Worst != c.worst || !got.Cut.Equal(at(2000*msec)) {
			t.Errorf("%s: downtime %v from %v, worst %v, want %v and %v", name, got.Downtime, got.Cut.Sub(zero), got.Worst, c.downtime, c.worst)
		}
		if math.Abs(got.LostBefore-c.lostBefore) > 0.01 || math.Abs(got.LostAfter-c.lostAfter) > 0.01 {
			t.Errorf("%s: lost %.3f before and %.3f after, want %.3f and %.3f", name, got.LostBefore, got.LostAfter, c.lostBefore, c.lostAfter)
		}
	}
}

func TestWhatIsLostInAMomentBeforeTheFreezeIsNotTold(t *testing.T) {
	m := Moments{Asked: at(0), Frozen: at(30 * msec), Runs: at(100 * msec), Ended: at(110 * msec)}
	answers := append(steady(-2000*msec, 0, msec), steady(20*msec, 31*msec, msec)...)
	got, ok := See(append(answers, steady(100*msec, 5000*msec, msec)...), m)
	if !ok || got.LostBefore != 0 {
		t.Errorf("ok %v, lost before %v", ok, got.LostBefore)
	}
}

func TestAClientThatWasHardlyAnsweredSeesNothing(t *testing.T) {
	m := Moments{Asked: at(0), Frozen: at(1000 * msec), Runs: at(1100 * msec), Ended: at(1200 * msec)}
	for name, answers := range map[string][]time.Time{
		"never":                nil,
		"not before":           steady(500*msec, 2000*msec, msec),
		"not since the freeze": steady(-1000*msec, 900*msec, msec),
	} {
		if _, ok := See(answers, m); ok {
			t.Errorf("answered %s: something was seen", name)
		}
	}
}

func TestSamplesKeepTheLongestWaits(t *testing.T) {
	answers := append(steady(-3000*msec, 1, msec), steady(300*msec, 5000*msec, msec)...)
	got := Around(answers, at(0))
	var longest Sample
	for i, s := range got {
		if s.WaitedMS > longest.WaitedMS {
			longest = s
		}
		if i > 0 && s.AtMS <= got[i-1].AtMS {
			t.Fatalf("sample %d is at %v, after one at %v", i, s.AtMS, got[i-1].AtMS)
		}
	}
	if longest.WaitedMS != 300 || longest.AtMS < 300 || longest.AtMS > 340 {
		t.Errorf("the longest wait is %+v, want 300 ms", longest)
	}
	if first, last := got[0].AtMS, got[len(got)-1].AtMS; first > -1950 || first < -2000 || last < 2950 || last > 3000 {
		t.Errorf("samples from %v to %v", first, last)
	}
	if n := len(got); n < 100 || n > 127 {
		t.Errorf("%d samples", n)
	}
}

func TestSamplesHaveTheEndOfALongDowntime(t *testing.T) {
	answers := append(steady(-3000*msec, 1, msec), steady(60*time.Second, 61*time.Second, msec)...)
	got := Around(answers, at(0))
	if last := got[len(got)-1]; last.WaitedMS != 60_000 {
		t.Errorf("the last sample is %+v", last)
	}
}
