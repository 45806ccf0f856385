package nodecontroller

import (
	"testing"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

var (
	allShims = map[string]shimAnswer{
		"unreachable": shimUnreachable, "unknown": shimUnknown, "undecided": shimUndecided, "held": shimHeld,
		"committed": shimCommitted, "running": shimRunning, "aborted": shimAborted,
	}
	allPeers = map[string]peerAnswer{
		"unreachable": peerUnreachable, "unknown": peerUnknown, "undecided": peerUndecided, "held": peerHeld, "committed": peerCommitted,
	}
	allOutcomes = []peerv1.Outcome{
		peerv1.Outcome_OUTCOME_UNSPECIFIED, peerv1.Outcome_OUTCOME_PENDING, peerv1.Outcome_OUTCOME_COMMITTED, peerv1.Outcome_OUTCOME_ABORTED,
	}
)

// Every combination, written out by what must hold of it, not by how it is decided.
func TestSourceDecidesEveryCombinationSafely(t *testing.T) {
	for _, s := range []stage{sourcePreparing, sourceDeciding, sourceCommitted} {
		for shimName, shim := range allShims {
			for peerName, peer := range allPeers {
				got := decideSource(s, shim, peer)
				var want sourceAction
				switch {
				case s == sourcePreparing:
					want = sourceAbort
				case s == sourceCommitted, shim == shimCommitted:
					want = sourceFinish
				case shim != shimUnreachable:
					want = sourceAbort
				case peer == peerUnreachable:
					want = sourceAskAgain
				case peer == peerHeld:
					want = sourceBury
				case peer == peerCommitted:
					want = sourceFinish
				default:
					want = sourceAbort
				}
				if got != want {
					t.Errorf("%s, shim %s, peer %s: action %d, want %d", s, shimName, peerName, got, want)
				}
				// What must never be, whatever the table says.
				if shim == shimCommitted && s != sourcePreparing && got == sourceAbort {
					t.Errorf("%s: aborts what its shim committed", s)
				}
				if s == sourceDeciding && shim == shimUndecided && (got == sourceFinish || got == sourceBury) {
					t.Errorf("peer %s: commits while its shim can still run the source", peerName)
				}
			}
		}
	}
}

func TestDestinationDecidesEveryCombinationSafely(t *testing.T) {
	for _, s := range []stage{destinationPreparing, destinationParked, destinationRestoring, destinationHeld, destinationCommitted, destinationAborting} {
		for shimName, shim := range allShims {
			for _, source := range allOutcomes {
				got := decideDestination(s, shim, source)
				var want destinationAction
				switch {
				case s == destinationCommitted && shim == shimHeld:
					want = destinationResume
				case s == destinationCommitted && shim == shimRunning:
					want = destinationFollow
				case s == destinationCommitted:
					want = destinationForget
				case s != destinationHeld:
					want = destinationAbandon
				case shim == shimRunning:
					want = destinationFollow
				case shim != shimHeld:
					want = destinationAbandon
				case source == peerv1.Outcome_OUTCOME_COMMITTED:
					want = destinationResume
				case source == peerv1.Outcome_OUTCOME_ABORTED:
					want = destinationAbandon
				default:
					want = destinationHold
				}
				if got != want {
					t.Errorf("%s, shim %s, source %s: action %d, want %d", s, shimName, source, got, want)
				}
				// What must never be: running without the source's word, or
				// dropping a pod that this node owns.
				if got == destinationResume && s != destinationCommitted && source != peerv1.Outcome_OUTCOME_COMMITTED {
					t.Errorf("%s, shim %s, source %s: runs without the source's word", s, shimName, source)
				}
				if got == destinationAbandon && s == destinationCommitted {
					t.Errorf("shim %s, source %s: drops a pod that it owns", shimName, source)
				}
				if got == destinationAbandon && s == destinationHeld && shim == shimHeld && source != peerv1.Outcome_OUTCOME_ABORTED {
					t.Errorf("source %s: drops a pod that the source may have committed", source)
				}
			}
		}
	}
}

func TestEveryShimStateHasAnAnswer(t *testing.T) {
	want := map[shimv1.State]shimAnswer{
		shimv1.State_STATE_UNSPECIFIED:  shimUndecided,
		shimv1.State_STATE_ROUNDS:       shimUndecided,
		shimv1.State_STATE_CONVERGED:    shimUndecided,
		shimv1.State_STATE_CUTTING_OVER: shimUndecided,
		shimv1.State_STATE_CUT_OVER:     shimUndecided,
		shimv1.State_STATE_COMMITTED:    shimCommitted,
		shimv1.State_STATE_ABORTED:      shimAborted,
		shimv1.State_STATE_FAILED:       shimAborted,
		shimv1.State_STATE_PARKED:       shimUndecided,
		shimv1.State_STATE_RESTORING:    shimUndecided,
		shimv1.State_STATE_HELD:         shimHeld,
		shimv1.State_STATE_FILLING:      shimRunning,
		shimv1.State_STATE_FILLED:       shimRunning,
	}
	for n, name := range shimv1.State_name {
		s := shimv1.State(n)
		if _, ok := want[s]; !ok {
			t.Errorf("%s: this test does not know it", name)
		} else if got := answerOf(s); got != want[s] {
			t.Errorf("%s: answer %d, want %d", name, got, want[s])
		}
	}
}
