// Package queue is the order in which pods leave a node, of which so many may at a
// time. It moves nothing: its user takes a place, and gives it back.
package queue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Entry is a migration that waits for a place.
type Entry struct {
	ID string
	// Priority: the higher goes first.
	Priority int32
	// Asked is since when it waits; among the same priority the older goes first.
	Asked time.Time
}

// Compare orders entries: below zero if a goes before b.
func Compare(a, b Entry) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.Asked.Compare(b.Asked), cmp.Compare(a.ID, b.ID))
}

// Position is the place of an entry among those that wait, itself among them or not: 1 is
// the next to go.
func Position(e Entry, waiting []Entry) int {
	position := 1
	for _, w := range waiting {
		if w.ID != e.ID && Compare(w, e) < 0 {
			position++
		}
	}
	return position
}

// Message says to a user what an entry at a position waits for.
func Message(position int, node string) string {
	suffix := "th"
	switch {
	case position%100 >= 11 && position%100 <= 13:
	case position%10 == 1:
		suffix = "st"
	case position%10 == 2:
		suffix = "nd"
	case position%10 == 3:
		suffix = "rd"
	}
	return fmt.Sprintf("waits: %d%s in the queue of node %s", position, suffix, node)
}

// Queue gives out a node's places.
type Queue struct {
	most int

	mu      sync.Mutex
	taken   int       // places, guarded by mu
	waiting []*waiter // in their order, guarded by mu
}

// waiter is one that waits.
type waiter struct {
	Entry
	granted chan struct{} // closed when it has a place
	moved   chan struct{} // told, with room for one, when its position may have changed
}

// New returns a queue for so many places; 0 is without limit.
func New(most int) *Queue { return &Queue{most: most} }

// Take waits for a place, which Give gives back. waits is called with its position if it
// has to wait, and when that changes. The error is ctx's cause.
func (q *Queue) Take(ctx context.Context, e Entry, waits func(position int)) error {
	w := q.join(e)
	if w == nil {
		return nil
	}
	told := 0
	for {
		if p := q.position(w); p > 0 && p != told {
			told = p
			waits(p)
		}
		select {
		case <-w.granted:
			return nil
		case <-w.moved:
		case <-ctx.Done():
			q.leave(w)
			return context.Cause(ctx)
		}
	}
}

// join takes a place, or joins those who wait; nil: it has a place.
func (q *Queue) join(e Entry) *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.most <= 0 || q.taken < q.most && len(q.waiting) == 0 {
		q.taken++
		return nil
	}
	w := &waiter{Entry: e, granted: make(chan struct{}), moved: make(chan struct{}, 1)}
	at, _ := slices.BinarySearchFunc(q.waiting, w, func(a, b *waiter) int { return Compare(a.Entry, b.Entry) })
	q.waiting = slices.Insert(q.waiting, at, w)
	q.tellFrom(at + 1)
	return w
}

// tellFrom tells those from a position on that theirs may have changed. mu is held.
func (q *Queue) tellFrom(at int) {
	for _, w := range q.waiting[min(at, len(q.waiting)):] {
		select {
		case w.moved <- struct{}{}:
		default:
		}
	}
}

// position is a waiter's, from 1; 0 if it waits no more.
func (q *Queue) position(w *waiter) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Index(q.waiting, w) + 1
}

// leave takes one who waited out; a place that it has just got goes to the next.
func (q *Queue) leave(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, w); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		q.tellFrom(i)
		return
	}
	q.give()
}

// Give gives a place back.
func (q *Queue) Give() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.give()
}

// give passes a place on, with mu held.
func (q *Queue) give() {
	if len(q.waiting) == 0 {
		q.taken--
		return
	}
	close(q.waiting[0].granted)
	q.waiting = q.waiting[1:]
	q.tellFrom(0)
}
