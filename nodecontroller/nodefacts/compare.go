package nodefacts

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/preflight"
	"godwit.dev/godwit/ociruntime"
	"godwit.dev/godwit/pagestream/criuversion"
)

// Compare says whether pods of node from can run on node to, one finding for
// each thing that the two must agree on. Either may be a peer's word.
func Compare(from, to *peerv1.Node) []preflight.Finding {
	return []preflight.Finding{
		compareArchitecture(from, to), compareKernel(from, to), compareCRIU(from, to), compareRuntime(from, to), compareCPU(from, to),
	}
}

func compareArchitecture(from, to *peerv1.Node) preflight.Finding {
	f := preflight.Finding{Feature: "architecture", Status: preflight.OK, Detail: from.Architecture}
	if from.Architecture != to.Architecture {
		f.Status = preflight.Missing
		f.Detail = fmt.Sprintf("node %s is %s, node %s is %s", from.Name, from.Architecture, to.Name, to.Architecture)
	}
	return f
}

// compareKernel warns only: the kernel's interface to programs grows, and what a
// pod has found there at its start it may use at any time.
func compareKernel(from, to *peerv1.Node) preflight.Finding {
	f := preflight.Finding{Feature: "kernel", Status: preflight.OK, Detail: from.Kernel}
	if from.Kernel != to.Kernel {
		f.Detail = fmt.Sprintf("%s, and %s", from.Kernel, to.Kernel)
	}
	if older(to.Kernel, from.Kernel) {
		f.Status = preflight.Warning
		f.Detail = fmt.Sprintf("node %s has %s, which is older than %s of node %s: a pod may use what it lacks", to.Name, to.Kernel, from.Kernel, from.Name)
	}
	return f
}

// older says whether kernel release a comes before b, as far as both can be read.
func older(a, b string) bool {
	var x, y [2]int
	if _, err := fmt.Sscanf(a, "%d.%d", &x[0], &x[1]); err != nil {
		return false
	}
	if _, err := fmt.Sscanf(b, "%d.%d", &y[0], &y[1]); err != nil {
		return false
	}
	return slices.Compare(x[:], y[:]) < 0
}

// compareCRIU says whether the CRIU of node to restores what that of node from
// dumps.
func compareCRIU(from, to *peerv1.Node) preflight.Finding {
	f := preflight.Finding{Feature: "CRIU", Status: preflight.Missing}
	dumps, err := usableCRIU(from)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	restores, err := usableCRIU(to)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	if err := restores.Restores(dumps); err != nil {
		f.Detail = fmt.Sprintf("node %s cannot restore what node %s dumps: %v", to.Name, from.Name, err)
		f.Remedy = fmt.Sprintf("install CRIU %v or later on node %s", dumps, to.Name)
		return f
	}
	f.Status, f.Detail = preflight.OK, from.Criu
	if from.Criu != to.Criu {
		f.Detail = fmt.Sprintf("%s dumps, %s restores", from.Criu, to.Criu)
	}
	return f
}

// usableCRIU is the CRIU of a node, which Godwit must be able to drive. One that
// is newer than Godwit may be able to.
func usableCRIU(n *peerv1.Node) (criuversion.Version, error) {
	if n.Criu == "" {
		return criuversion.Version{}, fmt.Errorf("node %s has no working CRIU: run godwitctl check there", n.Name)
	}
	v, err := criuversion.Parse(n.Criu)
	if err != nil {
		return v, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if err := v.Supported(); errors.Is(err, criuversion.ErrTooOld) {
		return v, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if got := n.PageServerMessage; got != 0 && int(got) != v.PageServerMessage() {
		return v, fmt.Errorf("node %s has a CRIU %v whose page-server messages have %d bytes, not %d: it is not the released one; install that", n.Name, v, got, v.PageServerMessage())
	}
	return v, nil
}

func compareRuntime(from, to *peerv1.Node) preflight.Finding {
	f := preflight.Finding{Feature: "OCI runtime", Status: preflight.OK, Detail: string(ociruntime.Runc)}
	for _, n := range []*peerv1.Node{from, to} {
		if n.OciRuntime != "" && n.OciRuntime != string(ociruntime.Runc) {
			f.Status = preflight.Missing
			f.Detail = fmt.Sprintf("containers of node %s are run by %.40q, which cannot take part in a move: run godwitctl check there", n.Name, n.OciRuntime)
		}
	}
	return f
}

func compareCPU(from, to *peerv1.Node) preflight.Finding {
	f := preflight.Finding{Feature: "CPU", Status: preflight.OK, Detail: fmt.Sprintf("all %d instruction sets of node %s", len(from.CpuFeatures), from.Name)}
	var lacking []string
	for _, feature := range from.CpuFeatures {
		if !slices.Contains(to.CpuFeatures, feature) {
			lacking = append(lacking, feature)
		}
	}
	if len(lacking) > 0 {
		f.Status = preflight.Missing
		f.Detail = fmt.Sprintf("the CPU of node %s lacks %s of node %s, which the pod may use", to.Name, strings.Join(lacking, ", "), from.Name)
	}
	return f
}
