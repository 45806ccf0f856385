package kubernetes

import (
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// ErrIllegalMove is wrapped by the error for a phase that cannot follow.
var ErrIllegalMove = errors.New("illegal move of a PodMigration")

// phaseMoves are the moves of a PodMigration, for all who write its status. A
// phase may be passed over: an object is written less often than a migration
// moves. From the cluster's agreement to the commit, which is Migrating still, to its end only the
// source's node moves it: see v1alpha1.PodMigration's Agreed. MigrationComplete to Failed is a pod
// that its destination has lost, or an object of an older version, which said so when the cluster agreed.
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

// agree notes that the cluster agrees to the commit: the source may make it as soon as that is written.
func agree(m *v1alpha1.PodMigration) error {
	if m.Status.Phase != v1alpha1.PhaseMigrating { // its event is not written yet
		if err := movePhase(m.Status.Phase, v1alpha1.PhaseMigrating); err != nil {
			return err
		}
	}
	m.Status.Phase = v1alpha1.PhaseMigrating
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionAgreed, Status: metav1.ConditionTrue, Reason: "CommitMayFollow",
		Message: "node " + m.Status.SourceNode + " decides", ObservedGeneration: m.Generation,
	})
	return nil
}

// disagree takes an agreement back, if there is one, of a migration that is known not to be committed.
func disagree(s *v1alpha1.PodMigrationStatus, reason, message string, generation int64) {
	if meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionAgreed) {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionAgreed, Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: generation,
		})
	}
}

// complete notes a commit that was made at a time.
func complete(s *v1alpha1.PodMigrationStatus, at metav1.Time) error {
	if s.Phase.Committed() {
		return nil
	}
	if err := movePhase(s.Phase, v1alpha1.PhaseMigrationComplete); err != nil {
		return err
	}
	s.Phase, s.CommitTime = v1alpha1.PhaseMigrationComplete, &at
	return nil
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
