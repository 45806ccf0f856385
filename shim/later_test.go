package shim

import (
	"context"
	"testing"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func TestColdMigrationWaitsForTheDestinationsTrees(t *testing.T) {
	s := testSource(shimv1.State_STATE_ROUNDS)
	done, synced := make(chan error, 1), 0
	go func() {
		done <- s.waitForTrees(s.work, func(context.Context) error {
			if p, _ := s.report(); p.GetPlacePod() {
				t.Error("its pod is asked for before its files have gone ahead")
			}
			synced++
			return nil
		})
	}()
	s.awaitPlacing()
	if p, _ := s.report(); p.GetState() != shimv1.State_STATE_ROUNDS || !p.GetAwaitsFiles() || synced != 1 {
		t.Fatalf("before its trees, after %d syncs: %v", synced, p)
	}
	s.sendFiles()
	s.sendFiles() // asking again is harmless
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if p, _ := s.report(); p.GetState() != shimv1.State_STATE_CONVERGED || p.GetAwaitsFiles() {
		t.Errorf("after its trees: %v", p)
	}
}

func TestAbortEndsTheWaitForTrees(t *testing.T) {
	s := testSource(shimv1.State_STATE_ROUNDS)
	s.running.Go(func() {
		if err := s.waitForTrees(s.work, func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
	})
	s.awaitPlacing()
	if err := s.abort("enough"); err != nil { // returns when nothing runs any more
		t.Fatal(err)
	}
	if p, last := s.report(); p.GetState() != shimv1.State_STATE_ABORTED || !last || p.GetAwaitsFiles() {
		t.Errorf("%v", p)
	}
}

func TestTreeAwaitedOnlyWhileMemoryIsDone(t *testing.T) {
	s := testSource(shimv1.State_STATE_ROUNDS)
	if p, _ := s.report(); p.GetAwaitsFiles() {
		t.Error("awaits files while memory is copied")
	}
	if err := s.awaitTrees(cancelled()); err == nil {
		t.Error("a wait that was called off found trees")
	}
}

// awaitPlacing returns when the destination's pod is asked for.
func (s *source) awaitPlacing() {
	for {
		changed := s.changed.wait()
		if p, _ := s.report(); p.GetPlacePod() {
			return
		}
		<-changed
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestMappedFilesOfAVolumeSeenInPart(t *testing.T) {
	whole := &tree{mapped: map[string]bool{"data/f": true}}
	part := &tree{parts: true, mapped: map[string]bool{"data/f": true}}
	for path, want := range map[string][2]bool{ // by whole and part
		"data/f": {true, true}, "sub/data/f": {false, true}, "a/b/data/f": {false, true},
		"subdata/f": {false, false}, "data/f/g": {false, false}, "f": {false, false}, "": {false, false},
	} {
		if whole.isMapped(path) != want[0] || part.isMapped(path) != want[1] {
			t.Errorf("%q: whole %v, part %v, want %v", path, whole.isMapped(path), part.isMapped(path), want)
		}
	}
}
