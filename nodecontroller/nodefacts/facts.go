// Package nodefacts is what a node tells its cluster about itself, as an annotation of
// its Node object: kernel, CRIU, runtimes, CPU, and what its own checks found. From
// them two nodes are compared without asking either. The checks are package
// preflight's; whether one pod can be moved is decided when it is moved.
package nodefacts

import (
	"encoding/json"
	"errors"
	"fmt"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/preflight"
)

// Annotation of a Node holds the node's facts, as Encode writes them.
const Annotation = "godwit.dev/node"

// maxSize bounds what is read and written, bytes: all annotations of an object
// together may have 256 KiB.
const maxSize = 64 << 10

// ErrMalformed is wrapped by the error for an annotation that is none of this
// package's.
var ErrMalformed = errors.New("malformed facts of a node")

// Facts are one node's.
type Facts struct {
	Node         string `json:"node"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Kernel       string `json:"kernel"`
	CRIU         string `json:"criu,omitempty"`
	// PageServerMessage is the length of a message of the CRIU's page-server
	// protocol, bytes.
	PageServerMessage uint32 `json:"pageServerMessage,omitempty"`
	Runc              string `json:"runc,omitempty"`
	// OCIRuntime is what containerd's handler names, such as runc or crun.
	OCIRuntime  string    `json:"ociRuntime,omitempty"`
	CPUFeatures []string  `json:"cpuFeatures,omitempty"`
	Findings    []Finding `json:"findings,omitempty"`
}

// Finding is what one check of the node found.
type Finding struct {
	Feature string           `json:"feature"`
	Status  preflight.Status `json:"status"`
	Detail  string           `json:"detail,omitempty"`
	Remedy  string           `json:"remedy,omitempty"`
}

// New are the facts of a node with what its checks found.
func New(n *peerv1.Node, found []preflight.Finding) Facts {
	f := Facts{
		Node:              n.Name,
		Version:           n.Version,
		Architecture:      n.Architecture,
		Kernel:            n.Kernel,
		CRIU:              n.Criu,
		PageServerMessage: n.PageServerMessage,
		Runc:              n.Runc,
		OCIRuntime:        n.OciRuntime,
		CPUFeatures:       n.CpuFeatures,
	}
	for _, g := range found {
		f.Findings = append(f.Findings, Finding(g))
	}
	return f
}

// Peer is the node as its peers describe it to each other.
func (f Facts) Peer() *peerv1.Node {
	return &peerv1.Node{
		Name:              f.Node,
		Version:           f.Version,
		Architecture:      f.Architecture,
		Kernel:            f.Kernel,
		Criu:              f.CRIU,
		PageServerMessage: f.PageServerMessage,
		Runc:              f.Runc,
		OciRuntime:        f.OCIRuntime,
		CpuFeatures:       f.CPUFeatures,
	}
}

// Lacking are the findings that keep migrations from working.
func (f Facts) Lacking() []Finding {
	var lacking []Finding
	for _, g := range f.Findings {
		if g.Status == preflight.Missing {
			lacking = append(lacking, g)
		}
	}
	return lacking
}

// Encode writes the facts as the annotation has them. The same facts are the same
// text.
func (f Facts) Encode() (string, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return "", fmt.Errorf("facts of node %s: %w", f.Node, err)
	}
	if len(b) > maxSize {
		return "", fmt.Errorf("facts of node %s: %d bytes, at most %d are allowed", f.Node, len(b), maxSize)
	}
	return string(b), nil
}

// Decode reads an annotation. Its error wraps ErrMalformed.
func Decode(annotation string) (Facts, error) {
	var f Facts
	if len(annotation) > maxSize {
		return f, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrMalformed, len(annotation), maxSize)
	}
	if err := json.Unmarshal([]byte(annotation), &f); err != nil {
		return Facts{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if f.Node == "" || f.Architecture == "" {
		return Facts{}, fmt.Errorf("%w: node and architecture are not said", ErrMalformed)
	}
	return f, nil
}
