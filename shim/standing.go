package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A pod whose shim dies while it stands still must end, and must not run before it does. containerd has the shim's binary
// delete the containers of a shim that is dead, but forgets those that CRI deletes in the same moment; of a pod it asks at
// least for the sandbox. So the pod's containers are written down in the sandbox's bundle before they are frozen.

// standing is a container that was frozen: its cgroup, and its bundle.
type standing struct {
	Cgroup  string `json:"cgroup"`
	Unified bool   `json:"unified"`
	Bundle  string `json:"bundle"`
}

// standingLimit bounds how long the processes of a dead shim's pod may take to end: gigabytes have to be freed.
const standingLimit = 10 * time.Second

func standingRecord(sandboxBundle string) string {
	return filepath.Join(sandboxBundle, "godwit-standing.json")
}

// noteStanding writes the pod's containers down.
func noteStanding(containers []*departure) error {
	var all []standing
	for _, c := range containers {
		all = append(all, standing{Cgroup: c.freezer.dir, Unified: c.freezer.unified, Bundle: c.bundle})
	}
	text, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("note what is frozen: %w", err)
	}
	c := containers[0]
	if err := os.WriteFile(standingRecord(filepath.Join(filepath.Dir(c.bundle), c.podID)), text, 0o600); err != nil {
		return fmt.Errorf("note what is frozen: %w", err)
	}
	return nil
}

// forgetStanding is for a pod that runs on, or has ended.
func forgetStanding(containers []*departure) {
	if len(containers) == 0 {
		return
	}
	c := containers[0]
	_ = os.Remove(standingRecord(filepath.Join(filepath.Dir(c.bundle), c.podID)))
}

// endStanding kills what a dead shim's record names, none of which runs again, and takes away what it kept of a migration. A
// shim that left no record froze nothing.
func endStanding(ctx context.Context, sandboxBundle string) error {
	text, err := os.ReadFile(standingRecord(sandboxBundle))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var all []standing
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return fmt.Errorf("what a dead shim froze: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, standingLimit)
	defer cancel()
	for _, s := range all {
		f := &freezer{dir: s.Cgroup, unified: s.Unified}
		if e := f.end(ctx); e != nil {
			err = errors.Join(err, fmt.Errorf("end the frozen container in %s: %w", s.Bundle, e))
		}
		clearSourceDir(s.Bundle)
		clearHidden(s.Bundle)
	}
	return err
}

// clearHidden takes away what is left of a bundle that containerd has removed meanwhile, which it does under another name, once
// (core/runtime/v2/bundle.go, atomicDelete): what is mounted in there stays, and the directories above it.
func clearHidden(bundle string) {
	hidden := filepath.Join(filepath.Dir(bundle), "."+filepath.Base(bundle))
	clearSourceDir(hidden)
	_ = os.Remove(filepath.Dir(sourceDir(hidden)))
	_ = os.Remove(hidden)
}
