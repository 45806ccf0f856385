package lazy

import "time"

// As long as processes fault, the pod is at work, and wants the processors for more than its pages: for itself, and whoever talks with it
// does. To copy memory as fast as that goes would take one of them, and put off, for some milliseconds each time, whoever shares it. So the
// background then works in bursts and rests between them. A fault is served at any time, and ahead of others: its process waits for it.
const (
	// faultsFor is for how long after a fault others are expected.
	faultsFor = 20 * time.Millisecond
	// burstFor is how long the background then works at a time, and restFor how long it does not. epoll_wait waits for a millisecond at least.
	burstFor = time.Millisecond
	restFor  = 2 * time.Millisecond
)

// haste knows whether processes fault.
type haste struct {
	faulted time.Time     // the last fault
	worked  time.Duration // of the background, since it rested
	urgent  bool          // see Config.Urgent
}

// fault notes one.
func (h *haste) fault(now time.Time) { h.faulted = now }

// is says whether processes fault.
func (h *haste) is(now time.Time) bool { return now.Sub(h.faulted) < faultsFor }

// work notes that the background has worked from one moment to another, and says for how long it has to rest.
func (h *haste) work(from, to time.Time) time.Duration {
	if !h.is(to) {
		h.worked = 0
		return 0
	}
	if h.worked += to.Sub(from); h.worked < burstFor {
		return 0
	}
	h.worked = 0
	return restFor
}

// prioritise tells who has asked for it that what the server does has become urgent, or is that no more.
func (s *server) prioritise(urgent bool) {
	if s.haste.urgent != urgent {
		s.haste.urgent = urgent
		if s.cfg.Urgent != nil {
			s.cfg.Urgent(urgent)
		}
	}
}
