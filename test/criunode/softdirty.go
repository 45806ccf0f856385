package criunode

import "context"

// HasSoftDirty says whether the kernel tracks memory with soft-dirty bits, as
// criu finds it; criu is the program in the node, with what starts it.
func (n *Node) HasSoftDirty(ctx context.Context, criu ...string) bool {
	args := append([]string{}, criu...)
	return n.Command(ctx, append(args, "check", "--feature", "mem_dirty_track")...).Run() == nil
}
