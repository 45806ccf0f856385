package shim

import (
	"context"
	"fmt"

	"godwit.dev/godwit/ociruntime"
)

// fitRuntimes sees that the programs that run the pod's containers can do what a
// move needs.
func (s *source) fitRuntimes(ctx context.Context) error {
	for _, c := range s.containers {
		r, err := ociruntime.Identify(ctx, c.runc.Command, runReaped)
		if err == nil {
			err = r.Fit(ctx, runReaped)
		}
		if err != nil {
			return fmt.Errorf("container %s: %w", c.id, err)
		}
	}
	return nil
}
