package shim

import (
	"context"
	"errors"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/shim/criu"
)

// lastScan is a tracker whose scan of the frozen processes also serves those who complete
// their images: it has seen which pages there are, and each walk over all page tables
// takes time that the pod stands still, the more the larger its memory is.
type lastScan struct {
	*track.Tracker
	// found is closed when the scan has been done; processes, by their pid, are fixed from then on.
	found     chan struct{}
	processes map[int]track.ProcessRound
}

func newLastScan(t *track.Tracker) *lastScan {
	return &lastScan{Tracker: t, found: make(chan struct{})}
}

// errScanned: a second scan would mean that the processes have run since the first.
var errScanned = errors.New("the last scan has been done")

// CollectFrozen does the last round, once.
func (l *lastScan) CollectFrozen(ctx context.Context) (track.Round, error) {
	if l.processes != nil {
		return track.Round{}, errScanned
	}
	r, err := l.Tracker.CollectFrozen(ctx)
	if err != nil {
		return r, err
	}
	l.processes = make(map[int]track.ProcessRound, len(r.Processes))
	for _, p := range r.Processes {
		l.processes[p.PID] = p
	}
	close(l.found)
	return r, nil
}

// present waits for the scan and lists the pages that a frozen process has in the areas of its
// view, and its guard pages. ok is false if the scan has not looked at all of them: at a process that shares its
// memory, or if there is no such scan, which a nil lastScan says.
func (l *lastScan) present(ctx context.Context, v *criu.View) (pages, guards []pagestream.Range, ok bool, err error) {
	if l == nil {
		return nil, nil, false, nil
	}
	select {
	case <-l.found:
	case <-ctx.Done():
		return nil, nil, false, context.Cause(ctx)
	}
	p, ok := l.processes[v.PID]
	if !ok || len(pagestream.Subtract(v.Owned(), p.Looked)) > 0 {
		return nil, nil, false, nil
	}
	return p.Present, p.Guards, true, nil
}
