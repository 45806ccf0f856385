// Package footprint keeps small what a process has resident while it has nothing to do: it gives the heap's free pages back to
// the kernel, and lets pages of the program go that only starting and working needed. When there is nothing to do is its
// caller's to say.
//
// A daemon of Kubernetes's libraries has 40 MiB of program and more. Starting touches pages all over it, as each package
// registers its types, and the kernel maps the sixteen around each: most of it is then mapped, of which an idle daemon uses little.
// Unmapped they cost nothing, and a fault each when they are used again: the kernel has them still, as long as it has no better use.
package footprint

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"
)

const (
	// interval is how often the process is looked at.
	interval = 10 * time.Second
	// slack is by how much it may grow before something is given back, bytes.
	slack = 6 << 20
	// longest is how many looks there are at most between two times that memory is given back.
	longest = 60
)

// Keep gives memory back whenever the process is idle and has worked or grown, until ctx ends. A process has worked when it
// starts.
func Keep(ctx context.Context, idle func() bool, log *slog.Logger) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	k := keeper{worked: true}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		resident, err := Resident()
		if err == nil && k.look(resident, idle()) {
			k.floor, err = release()
		}
		if err != nil {
			log.Warn("memory that is not needed is not given back", "error", err)
			return
		}
	}
}

// release gives back what it can, and returns what is resident then, bytes.
func release() (uint64, error) {
	debug.FreeOSMemory()
	if err := unmapProgram(); err != nil {
		return 0, err
	}
	return Resident()
}

// keeper decides when to give memory back.
type keeper struct {
	worked bool   // since memory was given back
	floor  uint64 // what was resident when it had been, bytes
	pause  int    // looks until it is again
	grown  int    // looks that found it grown since
}

// look says whether to give memory back, by what is resident. What is given back and needed all the same comes again: as long as
// nothing is worked, the pauses grow.
func (k *keeper) look(resident uint64, idle bool) (giveBack bool) {
	switch {
	case !idle:
		k.worked = true
		return false
	case k.worked:
		k.worked, k.pause, k.grown = false, 1, 0
		return true
	case resident <= k.floor+slack:
		return false
	}
	if k.grown++; k.grown < k.pause {
		return false
	}
	k.pause, k.grown = min(2*k.pause, longest), 0
	return true
}
