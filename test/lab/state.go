package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// nodeState is what is written of a node once it is up, and read back by every later command. It is a record, not the
// truth: whether the node runs is asked of the kernel, and down needs none of it.
type nodeState struct {
	Name       string    `json:"name"`
	Index      int       `json:"index"`
	Role       nodeRole  `json:"role,omitempty"`
	PID        int       `json:"pid"`         // of the node's PID 1, as the host sees it
	StartTicks uint64    `json:"start_ticks"` // its start time, against a PID used again
	MountNS    string    `json:"mount_ns"`    // its mount namespace, to find what entered it by hand
	Uplink     uplink    `json:"uplink"`
	Created    time.Time `json:"created"`
}

// nodeRole says what a machine of the lab is for.
type nodeRole string

const (
	roleWorker  nodeRole = ""              // runs pods: what everybody but this package means by a node
	roleControl nodeRole = "control-plane" // runs Kubernetes's control plane, and neither containerd nor pods
)

// uplink is how the node hangs on the bridge.
type uplink struct {
	Kind  uplinkKind    `json:"kind"`
	Rate  uint64        `json:"rate_bits_per_second,omitempty"`
	Delay time.Duration `json:"delay_ns,omitempty"`
	PID   int           `json:"pid,omitempty"` // of the delay line
	Ticks uint64        `json:"ticks,omitempty"`
}

// uplinkKind says what a node's eth0 is.
type uplinkKind string

const (
	uplinkVeth      uplinkKind = "veth"       // a veth pair; a delay, if any, is netem's
	uplinkDelayLine uplinkKind = "delay-line" // a TAP held by a delay line, where the kernel has no netem
)

// alive says whether the node's PID 1 runs.
func (s nodeState) alive() bool { return sameProcess(s.PID, s.StartTicks) }

func (l layout) readState(node string) (nodeState, error) {
	var s nodeState
	if err := readJSON(l.stateFile(node), &s); err != nil {
		return s, fmt.Errorf("state of node %s: %w", node, err)
	}
	return s, nil
}

func (l layout) writeState(s nodeState) error {
	if err := writeJSON(l.stateFile(s.Name), s); err != nil {
		return fmt.Errorf("state of node %s: %w", s.Name, err)
	}
	return nil
}

// knownNodes lists every node of which there is a trace: state, disk or cgroup.
func (l layout) knownNodes() ([]string, error) {
	seen := map[string]bool{}
	dirs := []string{filepath.Join(l.state, "nodes"), filepath.Join(l.data, "nodes")}
	for _, h := range hierarchies() {
		dirs = append(dirs, filepath.Join(h.mount, l.cgroup(), "nodes"), filepath.Join(h.mount, l.cgroup(), "links"))
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("nodes of the lab: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				seen[e.Name()] = true
			}
		}
	}
	for _, p := range processes() {
		if name, ok := p.nodeOf(l); ok {
			seen[name] = true
		}
	}
	return sortedKeys(seen), nil
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// writeJSON replaces file at once: a reader sees the old content or the new, also if the writer is killed.
func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
