package queue

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func at(second int64) time.Time { return time.Unix(second, 0) }

func TestHigherPriorityGoesFirstAndTheOlderAmongTheSame(t *testing.T) {
	entries := []Entry{
		{"old", 0, at(1)}, {"new", 0, at(3)}, {"urgent", 5, at(9)}, {"background", -1, at(0)}, {"b", 0, at(2)}, {"a", 0, at(2)},
	}
	for i, id := range []string{"urgent", "old", "a", "b", "new", "background"} {
		e := entries[slices.IndexFunc(entries, func(e Entry) bool { return e.ID == id })]
		if got := Position(e, entries); got != i+1 {
			t.Errorf("%s is at %d, want %d", id, got, i+1)
		}
	}
	if got := Position(Entry{"c", 0, at(2)}, entries); got != 5 {
		t.Errorf("one that is not in yet would be at %d", got)
	}
}

func TestAPositionIsSaidInWords(t *testing.T) {
	for position, want := range map[int]string{
		1: "waits: 1st in the queue of node a", 2: "waits: 2nd in the queue of node a", 3: "waits: 3rd in the queue of node a",
		4: "waits: 4th in the queue of node a", 11: "waits: 11th in the queue of node a", 12: "waits: 12th in the queue of node a",
		22: "waits: 22nd in the queue of node a", 113: "waits: 113th in the queue of node a",
	} {
		if got := Message(position, "a"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// queued takes a place in the background; positions hears where it waits, and gets 0 when it
// has the place.
func queued(t *testing.T, ctx context.Context, q *Queue, e Entry) (positions chan int, ended chan error) {
	positions, ended = make(chan int, 16), make(chan error, 1)
	go func() {
		err := q.Take(ctx, e, func(p int) { positions <- p })
		if err == nil {
			positions <- 0
		}
		ended <- err
	}()
	if first := <-positions; first == 0 {
		t.Fatalf("%s did not wait", e.ID)
	}
	return positions, ended
}

func TestPlacesAreGivenInOrderAndPositionsAreTold(t *testing.T) {
	q := New(2)
	for range 2 {
		if err := q.Take(t.Context(), Entry{}, func(int) { t.Error("it waited for nobody") }); err != nil {
			t.Fatal(err)
		}
	}
	late, lateEnded := queued(t, t.Context(), q, Entry{"late", 0, at(2)})
	first, firstEnded := queued(t, t.Context(), q, Entry{"first", 1, at(3)})
	if p := <-late; p != 2 {
		t.Errorf("after a higher one came it is at %d", p)
	}
	q.Give()
	if p := <-first; p != 0 {
		t.Errorf("the higher one is at %d", p)
	}
	if p := <-late; p != 1 {
		t.Errorf("then the other is at %d", p)
	}
	q.Give()
	if p := <-late; p != 0 {
		t.Errorf("it is at %d when there is a place", p)
	}
	if err := errors.Join(<-firstEnded, <-lateEnded); err != nil {
		t.Error(err)
	}
	q.Give()
	q.Give()
	if q.taken != 0 {
		t.Errorf("%d places are taken when all were given back", q.taken)
	}
}

func TestWhoIsBrokenOffLeavesTheQueue(t *testing.T) {
	q := New(1)
	if err := q.Take(t.Context(), Entry{}, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	_, ended := queued(t, ctx, q, Entry{"gone", 0, at(1)})
	next, nextEnded := queued(t, t.Context(), q, Entry{"next", 0, at(2)})
	why := errors.New("broken off")
	cancel(why)
	if err := <-ended; !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if p := <-next; p != 1 {
		t.Errorf("who was behind it is at %d", p)
	}
	q.Give()
	if err := <-nextEnded; err != nil {
		t.Error(err)
	}
}

func TestWithoutALimitNobodyWaits(t *testing.T) {
	q := New(0)
	for range 100 {
		if err := q.Take(t.Context(), Entry{}, func(int) { t.Error("it waits") }); err != nil {
			t.Fatal(err)
		}
	}
}
