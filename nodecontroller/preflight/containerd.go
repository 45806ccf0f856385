package preflight

import (
	"context"
	"fmt"
	"path"

	"godwit.dev/godwit/cri"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// runtimeType is the runtime that the handler must have.
const runtimeType = "io.containerd.godwit.v2"

const dropIn = "Put Godwit's drop-in into containerd's configuration: a runtime \"" + cri.Handler + "\" with runtime_type \"" +
	runtimeType + "\" and container_annotations [\"godwit.dev/*\"]; then restart containerd."

func containerdVersion(ctx context.Context, n *Node) []Finding {
	const feature = "containerd"
	v, err := n.CRI.Version(ctx)
	if err != nil {
		return missing(feature, err.Error(), "Start containerd 2.0 or later, and set `containerd` in the daemon's configuration to its socket.")
	}
	return ok(feature, v)
}

func containerdHandler(ctx context.Context, n *Node) []Finding {
	const feature = "containerd handler " + cri.Handler
	runtimes, err := n.CRI.Runtimes(ctx)
	if err != nil {
		return missing(feature, err.Error(), "")
	}
	r, found := runtimes[cri.Handler]
	switch {
	case !found:
		return missing(feature, "containerd has no such runtime", dropIn)
	case r.Type != runtimeType:
		return missing(feature, fmt.Sprintf("its runtime_type is %q", r.Type), dropIn)
	case !passes(r.ContainerAnnotations, shimv1.Annotation):
		return missing(feature, "its container_annotations do not let "+shimv1.Annotation+" through: the shim could not know what to restore", dropIn)
	}
	return ok(feature, runtimeType+", annotations reach the shim")
}

// passes says whether a pattern lets the annotation through, as containerd does
// it (internal/cri/util, GetPassthroughAnnotations).
func passes(patterns []string, annotation string) bool {
	for _, p := range patterns {
		if p == annotation {
			return true
		}
		if match, err := path.Match(p, annotation); err == nil && match {
			return true
		}
	}
	return false
}
