package nodecontroller

import (
	"errors"
	"fmt"
	"slices"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// ErrIllegalMove is wrapped by the error for a move that a state machine does
// not have: a defect in this package, never the caller's.
var ErrIllegalMove = errors.New("illegal move")

// phaseMoves are the moves of a migration as its operator sees it. Up to
// Migrating a migration can fail or be cancelled; MigrationComplete is the
// commit, from where there is one way: but for a destination that is lost before a
// pod that comes late was restored there.
var phaseMoves = map[nodev1.Phase][]nodev1.Phase{
	nodev1.Phase_PHASE_PENDING:            {nodev1.Phase_PHASE_PREPARING, nodev1.Phase_PHASE_FAILED, nodev1.Phase_PHASE_CANCELLED},
	nodev1.Phase_PHASE_PREPARING:          {nodev1.Phase_PHASE_STARTED, nodev1.Phase_PHASE_FAILED, nodev1.Phase_PHASE_CANCELLED},
	nodev1.Phase_PHASE_STARTED:            {nodev1.Phase_PHASE_MIGRATING, nodev1.Phase_PHASE_FAILED, nodev1.Phase_PHASE_CANCELLED},
	nodev1.Phase_PHASE_MIGRATING:          {nodev1.Phase_PHASE_MIGRATION_COMPLETE, nodev1.Phase_PHASE_FAILED, nodev1.Phase_PHASE_CANCELLED},
	nodev1.Phase_PHASE_MIGRATION_COMPLETE: {nodev1.Phase_PHASE_SUCCEEDED, nodev1.Phase_PHASE_FAILED},
	nodev1.Phase_PHASE_SUCCEEDED:          nil,
	nodev1.Phase_PHASE_FAILED:             nil,
	nodev1.Phase_PHASE_CANCELLED:          nil,
}

// movePhase returns an error that wraps ErrIllegalMove unless to follows from.
func movePhase(from, to nodev1.Phase) error {
	if !slices.Contains(phaseMoves[from], to) {
		return fmt.Errorf("phase %s to %s: %w", PhaseName(from), PhaseName(to), ErrIllegalMove)
	}
	return nil
}

// phaseNames are the names of the design.
var phaseNames = map[nodev1.Phase]string{
	nodev1.Phase_PHASE_PENDING:            "Pending",
	nodev1.Phase_PHASE_PREPARING:          "Preparing",
	nodev1.Phase_PHASE_STARTED:            "Started",
	nodev1.Phase_PHASE_MIGRATING:          "Migrating",
	nodev1.Phase_PHASE_MIGRATION_COMPLETE: "MigrationComplete",
	nodev1.Phase_PHASE_SUCCEEDED:          "Succeeded",
	nodev1.Phase_PHASE_FAILED:             "Failed",
	nodev1.Phase_PHASE_CANCELLED:          "Cancelled",
}

// PhaseName is the phase as operators read it.
func PhaseName(p nodev1.Phase) string {
	if name, ok := phaseNames[p]; ok {
		return name
	}
	return fmt.Sprintf("Phase(%d)", p)
}

// stage is what a node's journal says of its part in a migration.
type stage string

const (
	// Source: nothing was decided, and the shim was never asked to commit.
	sourcePreparing stage = "source-preparing"
	// Source: the shim may have committed; it knows.
	sourceDeciding stage = "source-deciding"
	// Source: the destination owns the pod; it may not know yet.
	sourceCommitted stage = "source-committed"

	// Destination: admitted; store, images, sandbox and containers are being made.
	destinationPreparing stage = "destination-preparing"
	// Destination: the store is made and memory may come in; kubelet makes the pod.
	destinationPrepared stage = "destination-prepared"
	// Destination: containers are parked, memory comes in.
	destinationParked stage = "destination-parked"
	// Destination: containers are being restored.
	destinationRestoring stage = "destination-restoring"
	// Destination: voted. The pod is held until the source's decision is known.
	destinationHeld stage = "destination-held"
	// Destination, where the pod comes late: voted. Everything of it is here, and is
	// kept until the source's decision is known.
	destinationSealed stage = "destination-sealed"
	// Destination, where the pod comes late: owns it, and restores it as soon as
	// kubelet has made it.
	destinationAwaiting stage = "destination-awaiting"
	// Destination: owns the pod, which runs; its memory is filled in.
	destinationCommitted stage = "destination-committed"
	// Destination: everything is being removed.
	destinationAborting stage = "destination-aborting"
)

// stageMoves are the moves of a node's part. The end of a part is the end of
// its record. Held and sealed are left on the source's or an operator's word only.
var stageMoves = map[stage][]stage{
	sourcePreparing: {sourceDeciding},
	sourceDeciding:  {sourceCommitted},
	sourceCommitted: nil,

	destinationPreparing: {destinationPrepared, destinationParked, destinationAborting},
	destinationPrepared:  {destinationParked, destinationSealed, destinationAborting},
	destinationParked:    {destinationRestoring, destinationAborting},
	destinationRestoring: {destinationHeld, destinationAborting},
	destinationHeld:      {destinationCommitted, destinationAborting},
	destinationSealed:    {destinationAwaiting, destinationAborting},
	destinationAwaiting:  {destinationCommitted},
	destinationCommitted: nil,
	destinationAborting:  nil,
}

// moveStage returns an error that wraps ErrIllegalMove unless to follows from.
func moveStage(from, to stage) error {
	if !slices.Contains(stageMoves[from], to) {
		return fmt.Errorf("stage %s to %s: %w", from, to, ErrIllegalMove)
	}
	return nil
}

// source says whether the stage is a source's.
func (s stage) source() bool {
	return s == sourcePreparing || s == sourceDeciding || s == sourceCommitted
}
