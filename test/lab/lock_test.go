package lab

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

func TestLockIsHeldByOneAndWaitingEndsWithTheContext(t *testing.T) {
	file := filepath.Join(t.TempDir(), "locks", "lock")
	release, err := flock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := flock(ctx, file); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second holder: %v", err)
	}
	release()
	again, err := flock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
