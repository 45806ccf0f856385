package kubernetes

import (
	"time"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/queue"
)

// waiting is a PodMigration that asked for one of the node's places and got none.
type waiting struct {
	queue.Entry
	// last is when it asked last. Who does not ask any more is cancelled, gone, or
	// waits for something else.
	last time.Time
}

// askedLately is how long who asked counts as waiting: it asks again after lookAgain.
const askedLately = 5 * lookAgain

// reserve takes one of the node's places for a migration and returns 0, or the position at
// which it waits for one.
func (c *Controller) reserve(m *v1alpha1.PodMigration, now time.Time) (position int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := queue.Entry{ID: string(m.UID), Priority: m.Spec.Priority, Asked: m.CreationTimestamp.Time}
	var others []queue.Entry
	for uid, w := range c.waiting {
		if now.Sub(w.last) > askedLately {
			delete(c.waiting, uid)
			continue
		}
		others = append(others, w.Entry)
	}
	position = queue.Position(e, others)
	if c.most > 0 && position > c.most-len(c.sessions) {
		c.waiting[m.UID] = waiting{e, now}
		return position
	}
	delete(c.waiting, m.UID)
	c.sessions[m.UID] = nil
	return 0
}
