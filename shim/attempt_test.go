package shim

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/lazy"
	"godwit.dev/godwit/shim/criu"
)

func TestOnlyACommittedContainerThatHasNotRunIsRestoredAgain(t *testing.T) {
	for s := arrivalExpected; s <= arrivalEnded; s++ {
		for _, early := range []bool{false, true} {
			want := attemptLost
			switch {
			case s == arrivalCommitted:
				want = attemptAgain
			case early && (s == arrivalReady || s == arrivalRestoring):
				want = attemptParked
			}
			if got := decideAttempt(s, early, false); got != want {
				t.Errorf("%v, started ahead: %v, runc failed: %v, want %v", s, early, got, want)
			}
			if got := decideAttempt(s, early, true); got != attemptRuns {
				t.Errorf("%v, started ahead: %v, runc succeeded: %v", s, early, got)
			}
		}
	}
}

func TestAttemptsGetMoreTimeAndLongerPauses(t *testing.T) {
	for _, c := range []struct {
		number       int
		limit, delay time.Duration
	}{
		{1, firstLimit, 0},
		{2, 2 * firstLimit, 0},
		{3, 4 * firstLimit, firstDelay},
		{4, 8 * firstLimit, 2 * firstDelay},
		{5, 16 * firstLimit, 4 * firstDelay},
		{6, maxLimit, 8 * firstDelay},
		{1000, maxLimit, maxDelay},
	} {
		if limit, delay := attemptLimit(c.number), attemptDelay(c.number); limit != c.limit || delay != c.delay {
			t.Errorf("attempt %d: %v after %v, want %v after %v", c.number, limit, delay, c.limit, c.delay)
		}
	}
}

// withAttempt is a destination with one container that stands at a state.
func withAttempt(t *testing.T, s arrivalState) (*destination, *arrival) {
	t.Helper()
	d := testDestination()
	a := d.arrival("c1")
	restore, err := criu.PrepareRestore(t.Context(), criu.RestoreConfig{ID: "c1", Run: func(context.Context, *exec.Cmd) error { return exec.ErrNotFound }, Config: t.TempDir() + "/criu.conf", Work: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(restore.Close)
	a.container, a.state, a.attempt = &container{id: "c1"}, s, newAttempt(1, nil)
	a.attempt.restore = restore
	return d, a
}

func TestTheEndOfARestoreIsTheEndOfAContainerUnlessItIsCommitted(t *testing.T) {
	broken := errors.New("broken")
	for s, want := range map[arrivalState]arrivalState{
		arrivalRestoring: arrivalEnded,
		arrivalHeld:      arrivalEnded,
		arrivalCommitted: arrivalRepeating,
		arrivalRunning:   arrivalEnded,
		arrivalEnded:     arrivalEnded,
	} {
		d, a := withAttempt(t, s)
		d.takeEnd(a, broken)
		if a.state != want {
			t.Errorf("a container that was %v is %v, want %v", s, a.state, want)
		}
	}
	d, a := withAttempt(t, arrivalRunning)
	d.takeEnd(a, broken)
	if err := context.Cause(a.ended); !errors.Is(err, errHasRun) {
		t.Errorf("a container that had run ended with %v", err)
	}
}

func TestAPodWhoseContainerIsRestoredAgainIsNeitherRunningNorComplete(t *testing.T) {
	for _, s := range []arrivalState{arrivalCommitted, arrivalRepeating} {
		d, a := withAttempt(t, s)
		d.resumed = time.Now()
		d.note(a, errors.New("it hung"))
		if d.over() {
			t.Errorf("%v: a migration counts as over, and its store would be removed", s)
		}
		if p := d.progress(); p.GetTrouble() != "it hung" {
			t.Errorf("%v: trouble is %q", s, p.GetTrouble())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.resume(ctx); err == nil {
			t.Errorf("%v: the pod is said to run", s)
		}
	}
}

func TestACommittedContainerIsLetGoWhenCRIUAsks(t *testing.T) {
	d, a := withAttempt(t, arrivalCommitted)
	if err := d.noteRunning(a, a.attempt); err != nil {
		t.Fatal(err)
	}
	if a.state != arrivalRunning || a.ran.IsZero() {
		t.Errorf("it is %v, ran at %v", a.state, a.ran)
	}
	d, a = withAttempt(t, arrivalCommitted)
	d.finish(a, errKilled)
	if err := d.noteRunning(a, a.attempt); err == nil {
		t.Error("a container that was killed is let go")
	}
	d, a = withAttempt(t, arrivalCommitted)
	d.memoryLost(a, errKilled)
	if err := d.noteRunning(a, a.attempt); !errors.Is(err, errKilled) || a.state != arrivalCommitted {
		t.Errorf("a container without a fault server is let go: %v, it is %v", err, a.state)
	}
}

func TestAPodIsLostAlsoWhenItsDeadContainerWasDeletedAtOnce(t *testing.T) {
	d, a := withAttempt(t, arrivalRunning)
	d.resumed = time.Now()
	a.container.bundle = t.TempDir() // without a process to kill
	d.memoryLost(a, fmt.Errorf("%w: 5 pages", lazy.ErrSourceLost))
	d.forget("c1")
	if p := d.progress(); !strings.Contains(p.GetLost(), "5 pages") {
		t.Errorf("pages are missing for good, and the progress is %v", p)
	}
}
