package shim

import (
	"context"
	"errors"

	"godwit.dev/godwit/pagestream/track"
)

// errNoSoftDirtyEngine: this build cannot drive CRIU's rounds.
var errNoSoftDirtyEngine = errors.New("engine SoftDirty is not built in yet: ask for tracker None, which is stop-and-copy")

// choose decides what finds dirty pages, by what the request asks for and what
// this node has.
func (s *source) choose(ctx context.Context) error {
	asked, err := track.ParseEngine(s.request.GetPolicy().GetTracker())
	if err != nil {
		return err
	}
	if s.engine, s.engineReason, err = track.Choose(asked, track.Probe(ctx, runReaped)); err != nil {
		return err
	}
	s.log.Info("tracker chosen", "engine", s.engine.String(), "because", s.engineReason)
	return newEngine(s.engine)
}

// newEngine sees that there is what carries the engine out.
func newEngine(e track.Engine) error {
	if e == track.SoftDirty {
		return errNoSoftDirtyEngine
	}
	return nil
}

// cold says whether the pod is frozen first and copied then.
func (s *source) cold() bool { return s.engine == track.None }
