package shim

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func testSource(state shimv1.State) *source {
	s := &source{
		id: "m1", log: slog.New(slog.NewTextHandler(io.Discard, nil)), request: &shimv1.BeginRequest{},
		changed: newBroadcast(), undone: make(chan struct{}), unwanted: make(chan struct{}), killed: make(chan struct{}), filesWanted: make(chan struct{}), progress: &shimv1.Progress{}, state: state,
	}
	s.work, s.cancel = context.WithCancelCause(context.Background())
	return s
}

func TestSourceAllowsOnlyTheMovesOfItsTable(t *testing.T) {
	for from := range shimv1.State_name {
		for to := range shimv1.State_name {
			legal := false
			for _, l := range sourceMoves[shimv1.State(from)] {
				legal = legal || l == shimv1.State(to)
			}
			err := testSource(shimv1.State(from)).move(shimv1.State(to))
			if (err == nil) != legal {
				t.Errorf("%v to %v: legal is %v, got %v", shimv1.State(from), shimv1.State(to), legal, err)
			}
		}
	}
}

func TestNothingLeadsAwayFromACommit(t *testing.T) {
	if moves := sourceMoves[shimv1.State_STATE_COMMITTED]; len(moves) > 0 {
		t.Fatalf("a committed source may become %v", moves)
	}
	s := testSource(shimv1.State_STATE_COMMITTED)
	if err := s.abort("late"); err == nil {
		t.Error("a committed source was aborted")
	}
	s.end(shimv1.State_STATE_FAILED, errors.New("late failure"))
	if s.state != shimv1.State_STATE_COMMITTED {
		t.Errorf("a committed source became %v", s.state)
	}
}

func TestNothingIsCommittedBeforeEverythingIsAcross(t *testing.T) {
	for _, state := range []shimv1.State{
		shimv1.State_STATE_UNSPECIFIED, shimv1.State_STATE_ROUNDS, shimv1.State_STATE_CONVERGED,
		shimv1.State_STATE_CUTTING_OVER, shimv1.State_STATE_ABORTED, shimv1.State_STATE_FAILED,
	} {
		if err := testSource(state).commit(); err == nil {
			t.Errorf("a source that is %v was committed", state)
		}
	}
}

func TestAbortIsHarmlessWhenRepeated(t *testing.T) {
	s := testSource(shimv1.State_STATE_ROUNDS)
	for range 3 {
		if err := s.abort("again"); err != nil {
			t.Fatal(err)
		}
	}
	if p, last := s.report(); !last || p.GetState() != shimv1.State_STATE_ABORTED || p.GetError() != "again" {
		t.Errorf("reports %v, last %v", p, last)
	}
	if err := s.commit(); err == nil {
		t.Error("an aborted source was committed")
	}
}

func TestSourceThatNobodyWatchesAborts(t *testing.T) {
	s := testSource(shimv1.State_STATE_ROUNDS)
	first, second := s.watch(), s.watch()
	first()
	if s.over() {
		t.Fatal("aborted while somebody watches")
	}
	second()
	<-s.undone
	if !errors.Is(s.err, errUnwatched) {
		t.Errorf("ended by %v", s.err)
	}
}

func TestACommittedPodStandsUntilSomebodyWantsItGone(t *testing.T) {
	s := testSource(shimv1.State_STATE_CUT_OVER)
	s.remove()
	select {
	case <-s.unwanted:
		t.Fatal("who ends a container before the commit ends a pod that is not committed yet")
	default:
	}
	s.state = shimv1.State_STATE_COMMITTED
	m := &migrations{source: s}
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.endCommitted(impatient, "c1"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	for range 2 { // each container, and the sandbox
		go func() { ended <- m.endCommitted(t.Context(), "c1") }()
	}
	select {
	case <-ended:
		t.Fatal("its processes are said to be killed, and are not")
	case <-time.After(10 * time.Millisecond):
	}
	close(s.killed)
	for range 2 {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	s.awaitRemoval()
	if took := time.Since(began); took >= lingerLimit {
		t.Errorf("it stood for %v more", took)
	}
}

func TestDeletionWaitsForWhatIsLeftOfACommittedMigration(t *testing.T) {
	s := testSource(shimv1.State_STATE_CONVERGED)
	m := &migrations{source: s}
	m.awaitLeft(t.Context()) // nothing is decided: it does not wait
	s.state = shimv1.State_STATE_COMMITTED
	left := make(chan struct{})
	go func() {
		m.awaitLeft(t.Context())
		close(left)
	}()
	<-s.unwanted
	select {
	case <-left:
		t.Fatal("it did not wait")
	case <-time.After(10 * time.Millisecond):
	}
	close(s.undone)
	<-left
}
