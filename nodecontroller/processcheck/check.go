package processcheck

import (
	"context"
	"net/netip"
	"slices"

	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/pagestream/criuversion"
)

// Container names a container and its first process.
type Container struct {
	Name string
	PID  int
	// Storage are the places at which it has volumes, or parts of them, that are
	// neither copied nor made anew with the pod: both nodes see the same.
	Storage []string
}

// Move is what is asked about.
type Move struct {
	// CRIU is the version that would dump the processes.
	CRIU       criuversion.Version
	Containers []Container
	// Addresses are the pod's own, which it does not keep.
	Addresses []netip.Addr
	// SourceFirst is as in Snapshot.
	SourceFirst bool
}

// Check looks at a pod's processes. A finding counts only if it is seen twice in
// a row: the processes run on while they are looked at, and what is half opened
// or half closed looks like an obstacle.
func Check(ctx context.Context, m Move) ([]obstacle.Finding, error) {
	first, err := once(ctx, m)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	again, err := once(ctx, m)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(first, func(f obstacle.Finding) bool { return !slices.Contains(again, f) }), nil
}

func once(ctx context.Context, m Move) ([]obstacle.Finding, error) {
	s, err := Gather(ctx, m.Containers)
	if err != nil {
		return nil, err
	}
	s.CRIU, s.Addresses, s.SourceFirst = m.CRIU, m.Addresses, m.SourceFirst
	return Judge(s), nil
}
