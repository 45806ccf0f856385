package lazy

import (
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/demand"
)

// way is a link between an asking and an answering side, and the time on it: so many pages a second, one behind the other,
// and a round trip besides.
type way struct {
	traffic
	now    time.Time
	rate   float64
	trip   time.Duration
	free   time.Time // when what was asked for has passed
	number uint64
}

func newWay(rate float64, trip time.Duration) *way {
	w := &way{now: time.Unix(1000, 0), rate: rate, trip: trip}
	w.free = w.now
	w.restart(w.now)
	return w
}

// answer is one that is on its way.
type answer struct {
	request
	at time.Time
}

// ask asks, and says when the answer comes.
func (w *way) ask(pages uint64, waits bool) answer {
	r := request{1, w.number * demand.MaxPages * pageSize, pages}
	w.number++
	w.traffic.asked(r, waits, w.now)
	if w.free.Before(w.now) {
		w.free = w.now
	}
	w.free = w.free.Add(time.Duration(float64(pages) / w.rate * float64(time.Second)))
	return answer{r, w.free.Add(w.trip)}
}

// run lets the background go on for a while, and faults one after the other if there are to be any. It
// returns the pages of the background that came, and the longest a fault took.
func (w *way) run(d time.Duration, faults bool) (came uint64, longest time.Duration) {
	var coming []answer
	var fault request
	end, began := w.now.Add(d), w.now
	for w.now.Before(end) {
		if faults && fault.pages == 0 {
			a := w.ask(1, true)
			fault, began = a.request, w.now
			coming = append(coming, a, w.ask(around-1, true))
		}
		for n := w.room(w.now); n > 0; n = w.room(w.now) {
			coming = append(coming, w.ask(n, false))
		}
		first := coming[0] // in the order in which they were asked for
		coming = coming[1:]
		w.now = first.at
		switch f := w.flights[first.request]; {
		case first.request == fault:
			longest = max(longest, w.now.Sub(began))
			fault = request{}
		case !f.waits:
			came += first.pages
		}
		w.answered(first.request, w.now)
	}
	for _, a := range coming {
		w.now = a.at
		w.answered(a.request, a.at)
	}
	return came, longest
}

func TestOneFaultAfterTheOtherDoesNotLengthenTheQueueThatTheyStandIn(t *testing.T) {
	w := newWay(6000, 10*time.Millisecond)
	w.run(time.Second, true)
	_, first := w.run(time.Second, true)
	_, later := w.run(20*time.Second, true)
	if most := w.trip + 2*inHaste.queued; later > most || first > most {
		t.Errorf("faults took up to %v, later %v; the round trip is %v, and a queue of %v is wanted", first, later, w.trip, inHaste.queued)
	}
	if w.behind != 0 || len(w.flights) != 0 {
		t.Errorf("everything has come, and %d pages, %d requests count as under way", w.behind, len(w.flights))
	}
}

func TestTheBackgroundTakesTheLinkWhateverItIsLike(t *testing.T) {
	for _, rate := range []float64{300, 6_000, 30_000, 100_000} {
		for _, trip := range []time.Duration{100 * time.Microsecond, 10 * time.Millisecond, 40 * time.Millisecond} {
			for _, faults := range []bool{false, true} {
				w := newWay(rate, trip)
				w.run(5*time.Second, faults)
				came, _ := w.run(5*time.Second, faults)
				share := float64(came) / (5 * rate)
				least := 0.95
				if faults { // which take a part themselves
					least = 0.4
				}
				if share < least {
					t.Errorf("%v pages a second, round trip %v, faults %v: %.2f of the link", rate, trip, faults, share)
				}
			}
		}
	}
}

func TestAFaultWaitsBehindLittleAndTheBackgroundIsGivenMoreAWhileAfter(t *testing.T) {
	w := newWay(6000, 10*time.Millisecond)
	w.run(time.Second, false)
	calm := w.window(w.now)
	w.ask(1, true)
	haste := w.window(w.now)
	if again := w.window(w.now.Add(hasteFor)); again != calm || haste > calm/2 {
		t.Errorf("%d pages may be under way, %d after a fault, %d a while after it", calm, haste, again)
	}
}

func TestAStallDoesNotMakeALinkSlow(t *testing.T) {
	w := newWay(6000, 10*time.Millisecond)
	w.run(time.Second, false)
	before := w.window(w.now)
	w.now = w.now.Add(time.Second) // nobody has looked
	w.answered(request{1, 0, 8}, w.now)
	if after := w.window(w.now); after != before {
		t.Errorf("%d pages could be under way before a stall, %d after it", before, after)
	}
	w.rate = 600
	w.run(5*time.Second, false)
	if after := w.window(w.now); after >= before {
		t.Errorf("the link takes a tenth by now, and still %d pages may be under way", after)
	}
}

func TestANewConnectionHasNothingUnderWay(t *testing.T) {
	w := newWay(6000, 10*time.Millisecond)
	w.ask(demand.MaxPages, false)
	w.ask(1, true)
	w.roundTrip = time.Millisecond
	w.restart(w.now)
	if w.behind != 0 || len(w.flights) != 0 || w.roundTrip != time.Millisecond {
		t.Errorf("%d pages, %d requests under way, round trip %v", w.behind, len(w.flights), w.roundTrip)
	}
}

func TestAPageThatIsAskedForTwiceIsUnderWayOnce(t *testing.T) {
	w := newWay(6000, 10*time.Millisecond)
	r := request{1, 7 * pageSize, 1}
	w.traffic.asked(r, false, w.now)
	w.traffic.asked(r, true, w.now)
	if w.behind != 1 {
		t.Fatalf("%d pages of the background under way, of 1", w.behind)
	}
	for range 2 {
		w.answered(r, w.now.Add(w.trip))
		if w.behind != 0 {
			t.Fatalf("%d pages of the background under way, of none", w.behind)
		}
	}
}
