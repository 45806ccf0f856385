package shim

import (
	"context"
	"fmt"

	"godwit.dev/godwit/pagestream/demand"
	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// prepareLeaving sees, before anything is copied, that the destination can fetch pages
// if this source may come to leave some.
func (s *source) prepareLeaving(ctx context.Context, credentials *wire.Credentials) error {
	may, err := mayLeave(s.request.GetPolicy())
	if err != nil || !may {
		return err
	}
	conn, err := wire.DialDemand(ctx, s.request.GetPeerAddress(), s.request.GetPeerName(), credentials)
	if err != nil {
		return fmt.Errorf("pages that are left here could not be fetched: %w", err)
	}
	return conn.Close()
}

// asksToLeave says whether the mode that was asked for leaves pages here.
func (s *source) asksToLeave() bool {
	m, err := parseMode(s.request.GetPolicy().GetMode())
	return err == nil && m != modeComplete
}

// leaveRest decides that what is dirty at the cutover is left here.
func (s *source) leaveRest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaves = true
}

// isLeaving says whether what is dirty at the cutover is left here.
func (s *source) isLeaving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaves
}

// leaveLast tells the destination which pages it lacks, in the place of sending them.
func (s *source) leaveLast(ctx context.Context, w *frozenWindow) error {
	memories, final, err := s.link.rounds.Leave(ctx)
	if err != nil {
		return err
	}
	for _, m := range memories {
		for ranges := m.Ranges; len(ranges) > 0; {
			var list []byte
			list, ranges = demand.EncodeLeft(m.Space, ranges)
			if err := s.link.files.blob(shimv1.Channel(m.Space.Container, shimv1.TreeLeft), list); err != nil {
				return fmt.Errorf("tell which pages are left: %w", err)
			}
		}
	}
	v := newServing(s, memories, final.Pages)
	s.mu.Lock()
	s.serving = v
	s.mu.Unlock()
	w.resp.PagesUs, w.resp.LeftPages = w.since(), final.Pages
	return nil
}

// stalled has rounds that ended in vain leave the rest here, if that is what was asked for.
func (s *source) stalled(d precopy.Decision) {
	policy, err := policyOf(s.request.GetPolicy())
	if err == nil && d.LeavesRest(policy) {
		s.log.Info("the rounds ended in vain, what is dirty is left here and fetched later")
		s.leaveRest()
	}
}

// blob sends bytes that are no records of a tree.
func (f *fileStream) blob(channel uint32, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stream.Blob(channel, payload)
}
