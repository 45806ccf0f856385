package shim

import (
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// linkUse is a source's use of its node's link. The node's daemon divides the link; what
// it said last holds until it says something else, also while it is away.
type linkUse struct {
	own     int64             // the migration's own limit, bytes a second; 0: none
	share   *shimv1.LinkShare // what the daemon said last
	session *wire.Session     // nil until the source is connected
}

// apply has the session keep to the share, or to the migration's own limit if that is less.
func (u *linkUse) apply() {
	if u.session == nil {
		return
	}
	rate := int64(u.share.GetRate())
	if rate == 0 || u.own > 0 && u.own < rate {
		rate = u.own
	}
	u.session.SetShare(rate, u.share.GetHeld())
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
	p.LinkBytes, p.ThrottledUs = stats.WireBytes, uint64(stats.Throttled.Microseconds())
}
