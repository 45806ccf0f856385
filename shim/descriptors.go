package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// descriptors are, for each container, what runc will write of its standard files into its
// checkpoint; empty where that cannot be told.
func (s *source) descriptors() []string {
	out := make([]string, len(s.containers))
	for i, c := range s.containers {
		var err error
		if out[i], err = c.descriptors(); err != nil {
			s.log.Warn("the container's restore cannot be started ahead", "container", c.id, "error", err)
		}
	}
	return out
}

// descriptors is read off runc's state (runc: libcontainer/criu_linux.go, Checkpoint).
func (d *departure) descriptors() (string, error) {
	raw, err := os.ReadFile(filepath.Join(d.runc.Root, d.id, "state.json"))
	if err != nil {
		return "", err
	}
	var state struct {
		Descriptors []string `json:"external_descriptors"`
	}
	if err := json.Unmarshal(raw, &state); err != nil {
		return "", fmt.Errorf("runc's state: %w", err)
	}
	text, err := json.Marshal(state.Descriptors)
	if err != nil {
		return "", err
	}
	return string(text), checkDescriptors(string(text))
}
