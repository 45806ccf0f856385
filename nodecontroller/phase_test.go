package nodecontroller

import (
	"errors"
	"testing"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

func TestPhasesMoveAsTheDesignSays(t *testing.T) {
	const (
		pending   = nodev1.Phase_PHASE_PENDING
		preparing = nodev1.Phase_PHASE_PREPARING
		started   = nodev1.Phase_PHASE_STARTED
		migrating = nodev1.Phase_PHASE_MIGRATING
		complete  = nodev1.Phase_PHASE_MIGRATION_COMPLETE
		succeeded = nodev1.Phase_PHASE_SUCCEEDED
		failed    = nodev1.Phase_PHASE_FAILED
		cancelled = nodev1.Phase_PHASE_CANCELLED
	)
	all := []nodev1.Phase{pending, preparing, started, migrating, complete, succeeded, failed, cancelled}
	legal := map[[2]nodev1.Phase]bool{
		{pending, preparing}: true, {preparing, started}: true, {started, migrating}: true,
		{migrating, complete}: true, {complete, succeeded}: true, {complete, failed}: true,
		{pending, failed}: true, {preparing, failed}: true, {started, failed}: true, {migrating, failed}: true,
		{pending, cancelled}: true, {preparing, cancelled}: true, {started, cancelled}: true, {migrating, cancelled}: true,
	}
	for _, from := range all {
		for _, to := range all {
			err := movePhase(from, to)
			if legal[[2]nodev1.Phase{from, to}] != (err == nil) {
				t.Errorf("%s to %s: %v", PhaseName(from), PhaseName(to), err)
			}
			if err != nil && !errors.Is(err, ErrIllegalMove) {
				t.Errorf("%v does not wrap ErrIllegalMove", err)
			}
		}
	}
}

func TestStagesMoveForwardsOnly(t *testing.T) {
	all := []stage{
		sourcePreparing, sourceDeciding, sourceCommitted,
		destinationPreparing, destinationPrepared, destinationParked, destinationRestoring, destinationHeld, destinationSealed, destinationAwaiting,
		destinationCommitted, destinationAborting,
	}
	legal := map[[2]stage]bool{
		{sourcePreparing, sourceDeciding}: true, {sourceDeciding, sourceCommitted}: true,
		{destinationPreparing, destinationParked}: true, {destinationParked, destinationRestoring}: true,
		{destinationRestoring, destinationHeld}: true, {destinationHeld, destinationCommitted}: true,
		{destinationPreparing, destinationAborting}: true, {destinationParked, destinationAborting}: true,
		{destinationRestoring, destinationAborting}: true, {destinationHeld, destinationAborting}: true,
		{destinationPreparing, destinationPrepared}: true, {destinationPrepared, destinationParked}: true, {destinationPrepared, destinationAborting}: true,
		{destinationPrepared, destinationSealed}: true, {destinationSealed, destinationAwaiting}: true, {destinationSealed, destinationAborting}: true,
		{destinationAwaiting, destinationCommitted}: true,
	}
	for _, from := range all {
		for _, to := range all {
			err := moveStage(from, to)
			if legal[[2]stage{from, to}] != (err == nil) {
				t.Errorf("%s to %s: %v", from, to, err)
			}
			if err != nil && !errors.Is(err, ErrIllegalMove) {
				t.Errorf("%v does not wrap ErrIllegalMove", err)
			}
		}
	}
	for _, s := range all {
		if s.source() != (s[:6] == "source") {
			t.Errorf("%s: source() = %v", s, s.source())
		}
	}
}
