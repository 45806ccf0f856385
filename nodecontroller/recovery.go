package nodecontroller

import (
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// What to do about a migration when something was lost: a daemon, a
// connection, a shim. The functions here decide; the outgoing and incoming
// parts carry it out.

// shimAnswer is what a shim says of a migration.
type shimAnswer int

const (
	// shimUnreachable: nobody listens on its socket. With a dead shim containerd
	// kills what ran in the pod.
	shimUnreachable shimAnswer = iota
	// shimUnknown: it has no part in the migration.
	shimUnknown
	// shimUndecided: a source before the commit, a destination before the hold.
	shimUndecided
	// shimHeld: a destination that waits for the decision.
	shimHeld
	// shimCommitted: a source that committed.
	shimCommitted
	// shimRunning: a destination that was resumed.
	shimRunning
	// shimAborted: either side ended without a move.
	shimAborted
)

// answerOf sorts the states of a shim.
func answerOf(s shimv1.State) shimAnswer {
	switch s {
	case shimv1.State_STATE_COMMITTED:
		return shimCommitted
	case shimv1.State_STATE_ABORTED, shimv1.State_STATE_FAILED:
		return shimAborted
	case shimv1.State_STATE_HELD:
		return shimHeld
	case shimv1.State_STATE_FILLING, shimv1.State_STATE_FILLED:
		return shimRunning
	}
	return shimUndecided
}

// peerAnswer is what a destination says of a migration to its source.
type peerAnswer int

const (
	peerUnreachable peerAnswer = iota
	// peerUnknown: it does not know the migration, or has dropped it.
	peerUnknown
	// peerUndecided: it has not voted.
	peerUndecided
	// peerHeld: it voted and waits.
	peerHeld
	// peerCommitted: it runs the pod.
	peerCommitted
)

// peerAnswerOf sorts the stages that a destination tells.
func peerAnswerOf(s peerv1.Stage) peerAnswer {
	switch s {
	case peerv1.Stage_STAGE_PREPARING:
		return peerUndecided
	case peerv1.Stage_STAGE_HELD:
		return peerHeld
	case peerv1.Stage_STAGE_COMMITTED:
		return peerCommitted
	}
	return peerUnknown
}

// sourceAction is what a source does about a migration that it lost hold of.
type sourceAction int

const (
	// sourceAskAgain: it cannot be told yet.
	sourceAskAgain sourceAction = iota
	// sourceAbort: the source runs on; the destination is told.
	sourceAbort
	// sourceFinish: the destination is told to run, until it answers; then the
	// source's pod is removed.
	sourceFinish
	// sourceBury: the source is dead and the destination holds the only copy:
	// see that nothing of the source runs, decide for the destination, finish.
	sourceBury
)

// decideSource says what a source does: by its record, by what its shim says,
// and, where the shim is gone, by what the destination says.
func decideSource(s stage, shim shimAnswer, peer peerAnswer) sourceAction {
	switch s {
	case sourcePreparing:
		return sourceAbort // its shim was never asked to commit
	case sourceCommitted:
		return sourceFinish
	}
	switch shim {
	case shimCommitted:
		return sourceFinish
	case shimUnreachable:
		return decideOrphan(peer)
	}
	return sourceAbort
}

// decideOrphan decides for a source whose shim died at the moment of the
// commit: what it decided is not known, but what it ran is dead.
func decideOrphan(peer peerAnswer) sourceAction {
	switch peer {
	case peerUnreachable:
		return sourceAskAgain
	case peerCommitted:
		return sourceFinish
	case peerHeld:
		return sourceBury
	}
	return sourceAbort
}

// destinationAction is what a destination does about a migration whose source
// it lost.
type destinationAction int

const (
	// destinationHold: it waits, and asks the source again. The pod stays as it
	// is: restored, and not running.
	destinationHold destinationAction = iota
	// destinationAbandon: everything of the migration is removed.
	destinationAbandon
	// destinationResume: the pod runs from now on.
	destinationResume
	// destinationFollow: the pod runs already; its memory is being filled in.
	destinationFollow
	// destinationForget: the pod was committed and is gone; only what the
	// migration left is removed.
	destinationForget
	// destinationAwait: the pod is owned, and restored when kubelet has made it.
	destinationAwait
)

// decideDestination says what a destination does: by its record, by what its
// shim says, and by what the source says (OUTCOME_UNSPECIFIED if it cannot be
// reached).
func decideDestination(s stage, shim shimAnswer, source peerv1.Outcome) destinationAction {
	switch s {
	case destinationHeld:
		return decideHeld(shim, source)
	case destinationSealed:
		return decideSealed(source)
	case destinationAwaiting:
		return destinationAwait
	case destinationCommitted:
		return decideCommitted(shim)
	}
	return destinationAbandon // it has not voted
}

func decideHeld(shim shimAnswer, source peerv1.Outcome) destinationAction {
	switch shim {
	case shimRunning:
		return destinationFollow // resumed, and the record came too late
	case shimHeld:
	default:
		return destinationAbandon // there is nothing left to hold
	}
	switch source {
	case peerv1.Outcome_OUTCOME_COMMITTED:
		return destinationResume
	case peerv1.Outcome_OUTCOME_ABORTED:
		return destinationAbandon
	}
	return destinationHold
}

// decideSealed is decideHeld where no pod is here yet.
func decideSealed(source peerv1.Outcome) destinationAction {
	switch source {
	case peerv1.Outcome_OUTCOME_COMMITTED:
		return destinationAwait
	case peerv1.Outcome_OUTCOME_ABORTED:
		return destinationAbandon
	}
	return destinationHold
}

func decideCommitted(shim shimAnswer) destinationAction {
	switch shim {
	case shimHeld:
		return destinationResume
	case shimRunning:
		return destinationFollow
	}
	return destinationForget
}
