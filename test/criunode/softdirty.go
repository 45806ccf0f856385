package criunode

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// featureCache is where CRIU keeps what it has found out about the kernel
// (criu/kerndat.c).
const featureCache = "/run/criu.kdat"

// ClaimSoftDirty makes criu in this node believe that the kernel tracks memory
// with soft-dirty bits, by changing the one byte of its feature cache that says
// so; criu check is the oracle. On a kernel without, every page looks clean
// then, and what a dump with a parent leaves out is everything: good for
// testing the protocol, and for nothing else. criu is the program's path in the
// node.
func (n *Node) ClaimSoftDirty(ctx context.Context, criu ...string) error {
	check := append(criu, "check", "--feature", "mem_dirty_track")
	believes := func() bool { return n.Command(ctx, check...).Run() == nil }
	if believes() {
		return nil
	}
	cache := n.Path(featureCache)
	was, err := os.ReadFile(cache)
	if err != nil {
		return fmt.Errorf("feature cache of criu: %w", err)
	}
	now := append([]byte(nil), was...)
	const likely = 32 // in 4.2, after a magic number and the like
	for i := -1; i < len(was); i++ {
		at := i
		if i < 0 {
			at = likely
		}
		if at < 8 || at >= len(was) || was[at] != 0 {
			continue
		}
		now[at] = 1
		if err := os.WriteFile(cache, now, 0o600); err != nil {
			return fmt.Errorf("feature cache of criu: %w", err)
		}
		if believes() {
			return nil
		}
		now[at] = 0
	}
	return errors.Join(errors.New("feature cache of criu: no byte says soft-dirty"), os.WriteFile(cache, was, 0o600))
}
