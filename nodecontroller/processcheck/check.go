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
}

// Check looks at a pod's processes. A finding counts only if it is seen twice in
// a row: the processes run on while they are looked at, and what is half opened
// or half closed looks like an obstacle.
func Check(ctx context.Context, criu criuversion.Version, containers []Container, addresses []netip.Addr) ([]obstacle.Finding, error) {
	first, err := once(ctx, criu, containers, addresses)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	again, err := once(ctx, criu, containers, addresses)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(first, func(f obstacle.Finding) bool { return !slices.Contains(again, f) }), nil
}

func once(ctx context.Context, criu criuversion.Version, containers []Container, addresses []netip.Addr) ([]obstacle.Finding, error) {
	s, err := Gather(ctx, containers)
	if err != nil {
		return nil, err
	}
	s.CRIU, s.Addresses = criu, addresses
	return Judge(s), nil
}
