package kubernetes

import (
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// action is what a source's node does about a PodMigration next.
type action int

const (
	// actNothing: it is another's, or runs, or is over and cleaned.
	actNothing action = iota
	// actAccept: the pod is here; say so in the object.
	actAccept
	// actBegin: have the daemon move the pod.
	actBegin
	// actAbort: break the running migration off.
	actAbort
	// actCancel: nothing runs; it is cancelled.
	actCancel
	// actWait: the daemon is finishing what an earlier one began; look again.
	actWait
	// actFail: an earlier daemon's migration was rolled back.
	actFail
	// actSucceed: an earlier daemon's migration was carried through.
	actSucceed
	// actLose: it was carried through, and the destination has lost the pod.
	actLose
	// actClean: it is over; clear away what it left in the cluster.
	actClean
)

func (a action) String() string {
	return [...]string{"nothing", "accept", "begin", "abort", "cancel", "wait", "fail", "succeed", "lose", "clean"}[a]
}

// view is what a source's node knows beside the object.
type view struct {
	// here: the pod runs on this node.
	here bool
	// followed: this controller began the migration and hears of it.
	followed bool
	// active: the daemon still has something to do for it.
	active bool
	// sourceGone: the pod that was to be moved is no longer in the cluster.
	sourceGone bool
	// lost is what became of the pod that the destination owned, if it is gone.
	lost string
}

// decide says what the source's node does next. m is at this node or at none.
func decide(m *v1alpha1.PodMigration, v view) action {
	unwanted := m.Spec.Cancel || !m.DeletionTimestamp.IsZero()
	switch p := m.Status.Phase; {
	case m.Untaken():
		return decideUntaken(m, v)
	case p.Over() && v.followed && !p.Committed():
		return actAbort // somebody else ended it, or its session is about to end
	case p.Over() && (v.followed || v.active):
		return actWait
	case p.Over():
		return decideOver(m)
	case v.followed && unwanted && !p.Committed():
		return actAbort
	case v.followed:
		return actNothing
	case v.active:
		return actWait
	case m.Agreed() && v.sourceGone:
		// The daemon forgets a committed migration only when the source's pod is
		// removed: one that is there runs on.
		if v.lost != "" {
			return actLose
		}
		return actSucceed
	case p == v1alpha1.PhaseMigrationComplete:
		return actFail
	case unwanted:
		return actCancel
	case p == v1alpha1.PhasePending:
		return actBegin
	}
	return actFail
}

// decideUntaken says whether this node takes a migration up. It may be Pending
// already: so says godwit-controller of those that nobody takes up.
func decideUntaken(m *v1alpha1.PodMigration, v view) action {
	switch deleted := !m.DeletionTimestamp.IsZero(); {
	case deleted && hasFinalizer(m):
		// Deleted in the moment in which a node took it up; which one, nothing says.
		return actCancel
	case v.here && !deleted:
		return actAccept
	}
	return actNothing
}

// decideOver says whether something is left to clear away.
func decideOver(m *v1alpha1.PodMigration) action {
	if hasFinalizer(m) {
		return actClean
	}
	return actNothing
}
