package shim

import (
	"time"

	"godwit.dev/godwit/pagestream/linklimit"
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// linkUse is a source's use of its node's link. The node's daemon divides the link; what
// it said last holds until it says something else, also while it is away, but that bulk is
// held back.
type linkUse struct {
	own     int64             // the migration's own limit, bytes a second; 0: none
	share   *shimv1.LinkShare // what the daemon said last
	session *wire.Session     // nil until the source is connected
	// left is what may be fetched from here after the commit.
	left *linklimit.Limiter
}

// apply has the session, and what is fetched from here, keep to the share, or to the
// migration's own limit if that is less.
func (u *linkUse) apply() {
	rate := int64(u.share.GetRate())
	if rate == 0 || u.own > 0 && u.own < rate {
		rate = u.own
	}
	if u.session != nil {
		u.session.SetShare(rate, u.share.GetHeld())
	}
	u.left.Set(rate, u.share.GetHeld(), time.Now())
}

// letGo ends a hold that nobody would end who has gone; the rate stays.
func (u *linkUse) letGo() {
	if u.share.GetHeld() {
		u.share = &shimv1.LinkShare{Rate: u.share.GetRate()}
		u.apply()
	}
}

// setShare takes what the daemon says the source may take of the link.
func (s *source) setShare(share *shimv1.LinkShare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use.share = share
	s.use.apply()
}

// useLink says by which session the source uses the link.
func (s *source) useLink(session *wire.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use.session = session
	s.use.apply()
}

// report adds to what a watcher is told how the link is used.
func (u *linkUse) report(p *shimv1.Progress) {
	if u.session == nil {
		return
	}
	stats := u.session.Stats()
	p.LinkBytes, p.LinkActiveUs, p.ThrottledUs = stats.WireBytes, uint64(stats.Active.Microseconds()), uint64(stats.Throttled.Microseconds())
}
