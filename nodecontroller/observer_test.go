package nodecontroller

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

func TestReasonIsOneWordForWhatAMigrationEndedOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, "none"},
		{fmt.Errorf("%w: by hand", ErrCancelled), "cancelled"},
		{fmt.Errorf("%w (and then: %w)", ErrTimeout, errdefs.ErrUnavailable), "timeout"},
		{fmt.Errorf("node b: %w: %w", ErrPeerSilent, errors.New("broken pipe")), "peer_silent"},
		{fmt.Errorf("node b does not take the pod in: %w", plain(errgrpc.ToGRPCf(errdefs.ErrResourceExhausted, "full"))), "no_room"},
		{plain(errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "an older CPU")), "incompatible"},
		{errors.Join(errHoldLost, nil), "hold_lost"},
		{errors.New("something new"), "other"},
	} {
		if got := reason(c.err); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}
