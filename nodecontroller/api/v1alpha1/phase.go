package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Phase is where a migration stands. It moves only downwards in this list; Failed
// and Cancelled follow from any phase before MigrationComplete.
//
// +kubebuilder:validation:Enum=Pending;Preparing;Started;Migrating;MigrationComplete;Succeeded;Failed;Cancelled
type Phase string

// The phases.
const (
	// PhasePending: accepted, nothing done; without a source node no node has
	// accepted it yet.
	PhasePending Phase = "Pending"
	// PhasePreparing: the destination gets images and makes room.
	PhasePreparing Phase = "Preparing"
	// PhaseStarted: the destination is ready, the source's shim is asked to begin.
	PhaseStarted Phase = "Started"
	// PhaseMigrating: memory and files are on their way; up to the commit.
	PhaseMigrating Phase = "Migrating"
	// PhaseMigrationComplete is the commit: the destination owns the pod.
	PhaseMigrationComplete Phase = "MigrationComplete"
	// PhaseSucceeded: the pod has all its memory there, and nothing is left of the source.
	PhaseSucceeded Phase = "Succeeded"
	// PhaseFailed: broken off by a failure; the source runs on.
	PhaseFailed Phase = "Failed"
	// PhaseCancelled: broken off on request; the source runs on.
	PhaseCancelled Phase = "Cancelled"
)

// Over says whether nothing more happens in the phase.
func (p Phase) Over() bool {
	return p == PhaseSucceeded || p == PhaseFailed || p == PhaseCancelled
}

// Committed says whether the destination owns the pod.
func (p Phase) Committed() bool { return p == PhaseMigrationComplete || p == PhaseSucceeded }

// Untaken says whether no node has taken the migration up yet.
func (m *PodMigration) Untaken() bool {
	return m.Status.SourceNode == "" && !m.Status.Phase.Over()
}

// AgreedSince is when the cluster agreed to the commit, nil if it has not, or does not any more.
func (m *PodMigration) AgreedSince() *metav1.Time {
	if c := meta.FindStatusCondition(m.Status.Conditions, ConditionAgreed); c != nil && c.Status == metav1.ConditionTrue {
		return &c.LastTransitionTime
	}
	return nil
}

// Agreed says whether the source may have committed: it has, or the cluster has agreed to it. Nobody but its
// node ends the migration then.
func (m *PodMigration) Agreed() bool { return m.Status.Phase.Committed() || m.AgreedSince() != nil }
