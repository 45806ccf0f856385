// Package preflight finds out whether a node has what a migration needs: kernel,
// CRIU, the OCI runtime, containerd, certificates. Each probe asks one thing and says what
// it found, or what is missing and what to do about it. It changes nothing but
// for what it takes away again. What a peer has is the peer's own preflight.
package preflight

import (
	"context"
	"sync"
	"time"

	"godwit.dev/godwit/cri"
)

// Status is the outcome of a probe.
type Status string

const (
	// OK: it is there.
	OK Status = "ok"
	// Warning: migrations work, but less well, or not for every pod.
	Warning Status = "warning"
	// Missing: no migration works without it.
	Missing Status = "missing"
)

// Finding is what one probe found.
type Finding struct {
	Feature string // what was probed
	Status  Status
	Detail  string // what was found, or why it is missing
	Remedy  string // what to do; empty if nothing is to be done
}

// Node is what the probes look at.
type Node struct {
	Name     string
	PKIDir   string
	StateDir string
	CRI      Containerd
	Now      time.Time // what certificates are compared with
}

// Containerd is what the probes ask of package cri's Client.
type Containerd interface {
	Version(context.Context) (string, error)
	Runtimes(context.Context) (map[string]cri.Runtime, error)
}

// probe asks one thing. Several findings may come of it.
type probe func(context.Context, *Node) []Finding

var probes = []probe{
	kernelRelease, pagemapScan, writeProtect, softDirty, guardRegions, tracker, tmpfs, connectionTable,
	criuVersion, criuCheck, criuLazy, criuDirtyTracking, ociRuntime,
	containerdVersion, containerdHandler, shimBinary, certificates,
}

// timeout is what one probe may take.
const timeout = 20 * time.Second

// Run probes the node. The findings are in a fixed order.
func Run(ctx context.Context, n *Node) []Finding {
	found := make([][]Finding, len(probes))
	var all sync.WaitGroup
	for i, p := range probes {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			found[i] = p(ctx, n)
		})
	}
	all.Wait()
	var findings []Finding
	for _, f := range found {
		findings = append(findings, f...)
	}
	return findings
}

func ok(feature, detail string) []Finding {
	return []Finding{{Feature: feature, Status: OK, Detail: detail}}
}

func missing(feature, detail, remedy string) []Finding {
	return []Finding{{Feature: feature, Status: Missing, Detail: detail, Remedy: remedy}}
}

func warning(feature, detail, remedy string) []Finding {
	return []Finding{{Feature: feature, Status: Warning, Detail: detail, Remedy: remedy}}
}
