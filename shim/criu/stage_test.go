package criu

import (
	"context"
	"errors"
	"testing"
)

func TestAWaitForCRIUEndsWithTheCause(t *testing.T) {
	broke := errors.New("runc broke")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broke)
	if _, err := make(arrivals).Wait(ctx, PreDump); !errors.Is(err, broke) {
		t.Errorf("got %v", err)
	}
}

func TestCRIUAtAnotherStageIsRefused(t *testing.T) {
	all := make(arrivals, 1)
	all <- Arrival{Stage: PostDump, PID: 1}
	if _, err := all.Wait(t.Context(), PreDump); err == nil {
		t.Error("CRIU at post-dump passes for CRIU at pre-dump")
	}
	close(all)
	if _, err := all.Wait(t.Context(), PreDump); err == nil {
		t.Error("a relay that is closed passes for CRIU")
	}
}
