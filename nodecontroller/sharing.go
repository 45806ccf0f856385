package nodecontroller

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"godwit.dev/godwit/nodecontroller/linkshare"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// sharing divides this node's link among the migrations whose source it is: at once when
// one begins, freezes or ends, and as they report what they use. Package linkshare decides.
type sharing struct {
	link float64 // bytes a second; 0: its speed is not limited here

	mu    sync.Mutex
	users []*linkUser // guarded by mu
}

// linkUser is one migration in the division.
type linkUser struct {
	sharing *sharing
	// changed is told, with room for one, when share is another; left is closed by leave.
	changed chan struct{}
	left    chan struct{}

	// What follows is guarded by sharing's mu.
	claim linkshare.Claim
	habit linkshare.Habit
	share linkshare.Share // as last published
	seen  usage           // what it had used when it last reported
}

// usage is what a shim reports of the link, since it began.
type usage struct {
	at        time.Time
	bytes     uint64
	active    time.Duration // time in which there was something to send
	throttled time.Duration
}

// usageOf is what a shim tells at a time.
func usageOf(p *shimv1.Progress, at time.Time) usage {
	return usage{at: at, bytes: p.LinkBytes, active: microseconds(p.LinkActiveUs), throttled: microseconds(p.ThrottledUs)}
}

// reportEvery is the least time over which use is measured.
const reportEvery = 200 * time.Millisecond

// join adds a migration with a limit of its own, bytes a second, 0 for none.
func (s *sharing) join(limit uint64) *linkUser {
	u := &linkUser{
		sharing: s, changed: make(chan struct{}, 1), left: make(chan struct{}),
		claim: linkshare.Claim{Limit: float64(limit)},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = append(s.users, u)
	s.divide()
	return u
}

// leave ends a migration's part in the division, at its first call.
func (u *linkUser) leave() {
	s := u.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.users {
		if other == u {
			s.users = append(s.users[:i:i], s.users[i+1:]...)
			close(u.left)
			s.divide()
			return
		}
	}
}

// turnEnds ends the urgency of a cutover, and the migration's part in the division unless it
// is committed and pages are left here that its destination fetches.
func (u *linkUser) turnEnds(committed bool, left uint64) {
	if committed && left > 0 {
		u.urgent(false)
		return
	}
	u.leave()
}

// urgent says that the migration's pod stands still, or does no longer.
func (u *linkUser) urgent(is bool) {
	u.sharing.mu.Lock()
	defer u.sharing.mu.Unlock()
	u.claim.Urgent = is
	u.sharing.divide()
}

// report takes what the migration's shim says it has used.
func (u *linkUser) report(now usage) {
	s := u.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	over := now.at.Sub(u.seen.at)
	if s.link <= 0 || over < reportEvery {
		return
	}
	first := u.seen.at.IsZero()
	use := linkshare.Use{
		Bytes: float64(now.bytes - u.seen.bytes), Over: over,
		Active: now.active - u.seen.active, Throttled: now.throttled - u.seen.throttled,
	}
	u.seen = now
	if first || u.share.Held { // what it took while it was held says nothing of what it wants
		return
	}
	u.habit = u.habit.Next(s.link, use)
	u.claim.Want = u.habit.Want
	s.divide()
}

// publish has the share told.
func (u *linkUser) publish() {
	select {
	case u.changed <- struct{}{}:
	default:
	}
}

// divide publishes the shares that are to be told. mu is held.
func (s *sharing) divide() {
	claims := make([]linkshare.Claim, len(s.users))
	for i, u := range s.users {
		claims[i] = u.claim
	}
	for i, share := range linkshare.Divide(s.link, claims) {
		u := s.users[i]
		if !linkshare.Differs(u.share, share) {
			continue
		}
		u.share = share
		u.publish()
	}
}

// current is the share that counts now.
func (u *linkUser) current() *shimv1.LinkShare {
	u.sharing.mu.Lock()
	defer u.sharing.mu.Unlock()
	return &shimv1.LinkShare{Rate: uint64(u.share.Rate), Held: u.share.Held}
}

// tell keeps a shim informed until the migration has left the division. A shim that cannot
// be told keeps what it was told before.
func (u *linkUser) tell(ctx context.Context, shim shimv1.MigrationClient, migration string, log *slog.Logger) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case <-u.left:
			return
		case <-u.changed:
		}
		share := u.current()
		if _, err := shim.Share(ctx, &shimv1.ShareRequest{Migration: migration, Share: share}); err != nil {
			log.Warn("the pod's shim does not hear its share of the link", "error", plain(err))
			continue
		}
		log.Debug("share of the link", "bytes_per_second", share.Rate, "held", share.Held)
	}
}
