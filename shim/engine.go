package shim

import (
	"context"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/pagestream/track"
)

// choose decides what finds dirty pages, by what the request asks for and what
// this node has.
func (s *source) choose(ctx context.Context) error {
	asked, err := track.ParseEngine(s.request.GetPolicy().GetTracker())
	if err != nil {
		return err
	}
	m, err := parseMode(s.request.GetPolicy().GetMode())
	if err != nil {
		return err
	}
	if m == modePostCopy {
		asked = track.None // there is no round to find anything for
	}
	features := track.Probe(ctx, runReaped)
	if s.engine, s.engineReason, err = track.Choose(asked, features); err != nil {
		return err
	}
	s.canProtect = features.PagemapScan == nil && features.WPAsync == nil
	s.log.Info("tracker chosen", "engine", s.engine.String(), "because", s.engineReason)
	return nil
}

// useEngine sets up what finds dirty pages in the rounds and in the last copy.
func (s *source) useEngine(config *precopy.Config) error {
	l := s.link
	if s.engine == track.SoftDirty {
		var err error
		if l.predumps, err = newPredumps(s, pageSession{l.session}, l.shared); err != nil {
			return err
		}
		config.Carrier = l.predumps
		config.Tracker = &track.SoftDirtyTracker{List: s.processes, Held: l.predumps.held}
		return nil
	}
	if s.engine == track.None && !s.canProtect {
		nothing := func(track.Process) []pagestream.Range { return nil }
		config.Tracker = &track.SoftDirtyTracker{List: s.processes, Held: nothing}
		return nil
	}
	l.injector = newInjector()
	l.tracker = track.New(track.Options{List: s.processes, Inject: l.injector.Inject, Log: s.log})
	l.scan = newLastScan(l.tracker)
	config.Tracker = l.scan
	return nil
}

// cold says whether the pod is frozen first and copied then.
func (s *source) cold() bool { return s.engine == track.None }
