package preflight

import (
	"context"

	"godwit.dev/godwit/cri"
	"godwit.dev/godwit/ociruntime"
)

// ociRuntime is the program that runs the handler's containers, and whether it
// can do what a move needs.
func ociRuntime(ctx context.Context, n *Node) []Finding {
	const feature = "OCI runtime"
	const remedy = "Have containerd's runtime " + cri.Handler + " use runc 1.1 or later."
	binary := ""
	if runtimes, err := n.CRI.Runtimes(ctx); err == nil { // else containerdHandler says what is wrong
		binary = runtimes[cri.Handler].OCIRuntime()
	}
	r, err := ociruntime.Identify(ctx, binary, nil)
	if err == nil {
		err = r.Fit(ctx, nil)
	}
	if err != nil {
		return missing(feature, err.Error(), remedy)
	}
	return ok(feature, string(r.Kind)+" "+r.Version)
}
