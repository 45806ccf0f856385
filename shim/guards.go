package shim

import (
	"context"
	"fmt"
	"os"

	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/shim/criu"
)

// Guard pages (MADV_GUARD_INSTALL) are what glibc from 2.42 on has at the end of each thread's stack. CRIU walks all page tables for them
// while the pod is frozen, unless it is told that the kernel does not tell them; criu/guardless.go says how. Then there must be none where it
// looks: those areas are hidden from it, which is known for sure when the pod is frozen.

// guardless finds the cache of kernel features with which CRIU does not look for guard pages.
func guardless() (*criu.Guardless, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the shim's own binary: %w", err)
	}
	return criu.NewGuardless([]string{self, helperShow}, runReaped), nil
}

// learnGuards makes that cache, beside the rounds: the dump takes what is ready.
func (s *source) learnGuards(ctx context.Context) {
	if pagemap.ProbeGuard() != nil {
		return
	}
	g, err := guardless()
	if err == nil {
		err = g.Make(ctx)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Info("CRIU looks for guard pages itself", "reason", err)
	}
}

// readyFeatures is the path of that cache, empty if there is none.
func readyFeatures() string {
	if pagemap.ProbeGuard() != nil {
		return ""
	}
	g, err := guardless()
	if err != nil {
		return ""
	}
	path, ok := g.Ready()
	if !ok {
		return ""
	}
	return path
}

// showGuards has CRIU look for guard pages after all if the frozen container has some that it must see, in memory or in a process that it has made
// since its views were: another CRIU then begins, which takes some 30 ms.
func (d *departure) showGuards(ctx context.Context) error {
	if d.dumping.Features == "" {
		return nil
	}
	left, err := d.hasGuardsLeft()
	if err != nil || !left {
		return err
	}
	letGo, cancel := context.WithTimeout(ctx, letGoLimit)
	defer cancel()
	err = d.dump.Abort(letGo)
	d.dump = nil
	if err != nil {
		return fmt.Errorf("begin the dump again: %w", err)
	}
	d.dumping.Features, d.restarted = "", true
	return d.startCRIU(ctx)
}

// hasGuardsLeft hides the guard pages of the container's processes, and says whether some are left.
func (d *departure) hasGuardsLeft() (bool, error) {
	pids, err := d.processes()
	if err != nil {
		return false, err
	}
	views := make(map[int]*criu.View, len(d.views))
	for _, v := range d.views {
		views[v.PID] = v
	}
	for _, pid := range pids {
		left, err := guardsLeft(pid, views[pid])
		if criu.IsGone(err) {
			continue
		}
		if err != nil || left {
			return left, err
		}
	}
	return false, nil
}

// guardsLeft is hasGuardsLeft of a process and its view, if it has one.
func guardsLeft(pid int, v *criu.View) (bool, error) {
	if v == nil {
		return criu.HasGuards(pid)
	}
	return v.HideGuards()
}
