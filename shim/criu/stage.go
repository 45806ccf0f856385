package criu

import (
	"context"
	"fmt"
)

// Stage is a point at which CRIU notifies its client and waits for its answer
// (criu/action-scripts.c, action_names).
type Stage string

const (
	// PreDump comes before CRIU looks at any process: nothing needs to be
	// frozen until here.
	PreDump Stage = "pre-dump"
	// PostDump comes when the images are complete and the processes are still
	// stopped. A verdict other than Go lets them run on.
	PostDump Stage = "post-dump"
	// PostRestore comes when all processes exist again and wait inside CRIU's
	// restorer. They run only if CRIU goes on: if it dies here, or gets a
	// verdict other than Go, they never run.
	PostRestore Stage = "post-restore"
	// PreResume is CRIU's last step before it detaches from the processes, and they
	// run. The verdict is only logged here, and a CRIU that dies lets them go: to hold
	// them back it must not be answered, and all of them be killed with it.
	PreResume Stage = "pre-resume"

	// statusReady is where CRIU would begin to serve the pages of a lazy dump (criu/util.c, status_ready).
	// That comes only after a Stop at PostDump. It is always stopped there, and lets go of the processes.
	statusReady Stage = "status-ready"
)

// Verdict is what CRIU is answered.
type Verdict int

const (
	// Go lets CRIU continue.
	Go Verdict = 0
	// Stop makes CRIU undo what it did.
	Stop Verdict = 1
)

// Arrival says that CRIU waits at a stage.
type Arrival struct {
	Stage Stage
	// PID of the CRIU process that waits.
	PID int
}

// arrivals are where CRIU has come to.
type arrivals chan Arrival

// Wait returns when CRIU has arrived at the stage. It fails when ctx ends, with
// its cause, and when CRIU arrives elsewhere first.
func (all arrivals) Wait(ctx context.Context, stage Stage) (Arrival, error) {
	select {
	case a, ok := <-all:
		if !ok {
			return Arrival{}, fmt.Errorf("wait for CRIU at %s: the relay is closed", stage)
		}
		if a.Stage != stage {
			return a, fmt.Errorf("CRIU arrived at %s where %s was awaited", a.Stage, stage)
		}
		return a, nil
	case <-ctx.Done():
		return Arrival{}, fmt.Errorf("wait for CRIU at %s: %w", stage, context.Cause(ctx))
	}
}
