package kubernetes

import (
	"errors"
	"fmt"
	"slices"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// ErrIllegalMove is wrapped by the error for a phase that cannot follow.
var ErrIllegalMove = errors.New("illegal move of a PodMigration")

// phaseMoves are the moves of a PodMigration, for all who write its status. A
// phase may be passed over: an object is written less often than a migration
// moves. Migrating to Failed includes the one case in which the object said
// MigrationComplete and the node could not hear that it was written: then the
// node has rolled back, and nobody but the node acts on that phase.
var phaseMoves = map[v1alpha1.Phase][]v1alpha1.Phase{
	"":                              {v1alpha1.PhasePending, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled},
	v1alpha1.PhasePending:           {v1alpha1.PhasePreparing, v1alpha1.PhaseStarted, v1alpha1.PhaseMigrating, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled},
	v1alpha1.PhasePreparing:         {v1alpha1.PhaseStarted, v1alpha1.PhaseMigrating, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled},
	v1alpha1.PhaseStarted:           {v1alpha1.PhaseMigrating, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled},
	v1alpha1.PhaseMigrating:         {v1alpha1.PhaseMigrationComplete, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled},
	v1alpha1.PhaseMigrationComplete: {v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed},
	v1alpha1.PhaseSucceeded:         nil,
	v1alpha1.PhaseFailed:            nil,
	v1alpha1.PhaseCancelled:         nil,
}

// movePhase returns an error that wraps ErrIllegalMove unless to follows from
// from, or is it.
func movePhase(from, to v1alpha1.Phase) error {
	if from == to || slices.Contains(phaseMoves[from], to) {
		return nil
	}
	return fmt.Errorf("phase %q to %q: %w", from, to, ErrIllegalMove)
}

// earlier says whether a migration on its way to success passes a before b.
func earlier(a, b v1alpha1.Phase) bool {
	way := []v1alpha1.Phase{
		"", v1alpha1.PhasePending, v1alpha1.PhasePreparing, v1alpha1.PhaseStarted,
		v1alpha1.PhaseMigrating, v1alpha1.PhaseMigrationComplete, v1alpha1.PhaseSucceeded,
	}
	i, j := slices.Index(way, a), slices.Index(way, b)
	return i >= 0 && i < j
}

// phaseOf is the daemon's phase as the object's.
func phaseOf(p nodev1.Phase) v1alpha1.Phase {
	switch p {
	case nodev1.Phase_PHASE_PENDING:
		return v1alpha1.PhasePending
	case nodev1.Phase_PHASE_PREPARING:
		return v1alpha1.PhasePreparing
	case nodev1.Phase_PHASE_STARTED:
		return v1alpha1.PhaseStarted
	case nodev1.Phase_PHASE_MIGRATING:
		return v1alpha1.PhaseMigrating
	case nodev1.Phase_PHASE_MIGRATION_COMPLETE:
		return v1alpha1.PhaseMigrationComplete
	case nodev1.Phase_PHASE_SUCCEEDED:
		return v1alpha1.PhaseSucceeded
	case nodev1.Phase_PHASE_FAILED:
		return v1alpha1.PhaseFailed
	case nodev1.Phase_PHASE_CANCELLED:
		return v1alpha1.PhaseCancelled
	}
	return ""
}
