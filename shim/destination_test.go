package shim

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"

	"godwit.dev/godwit/pagestream/lazy"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func testDestination() *destination {
	return newDestination("m1", func() uint32 { return 7 }, newRestoreMonitor(nil), slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func TestArrivalAllowsOnlyTheMovesOfItsTable(t *testing.T) {
	for from := arrivalExpected; from <= arrivalEnded; from++ {
		for to := arrivalExpected; to <= arrivalEnded; to++ {
			legal := false
			for _, l := range arrivalMoves[from] {
				legal = legal || l == to
			}
			d := testDestination()
			a := d.arrival("c1")
			a.state = from
			if err := d.move(a, to); (err == nil) != legal {
				t.Errorf("%v to %v: legal is %v, got %v", from, to, legal, err)
			}
		}
	}
}

// park starts a container that is to be restored, and returns its start's error.
func park(t *testing.T, d *destination, id string) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := d.start(context.Background(), &container{id: id}, func(context.Context) (*taskAPI.StartResponse, error) {
			t.Error("a container ran without the order to restore it")
			return nil, errors.New("ran")
		})
		ended <- err
	}()
	if _, err := d.waitParked(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return ended
}

func TestAbortFailsParkedStarts(t *testing.T) {
	d := testDestination()
	first, second := park(t, d, "c1"), park(t, d, "c2")
	if err := d.abort("test"); err != nil {
		t.Fatal(err)
	}
	for _, ended := range []<-chan error{first, second} {
		if err := <-ended; !errors.Is(err, errAborted) {
			t.Errorf("start ended with %v", err)
		}
	}
	if p := d.progress(); p.GetState() != shimv1.State_STATE_ABORTED || !d.over() {
		t.Errorf("destination is %v", p.GetState())
	}
	a, _ := d.find("c1")
	select {
	case <-a.failed:
	default:
		t.Error("a container that never ran does not count as stopped")
	}
}

func TestStartAfterAnAbortFails(t *testing.T) {
	d := testDestination()
	if err := d.abort("early"); err != nil {
		t.Fatal(err)
	}
	_, err := d.start(t.Context(), &container{id: "c1"}, func(context.Context) (*taskAPI.StartResponse, error) {
		t.Error("it ran")
		return nil, nil
	})
	if !errors.Is(err, errAborted) {
		t.Errorf("got %v", err)
	}
}

func TestResumeNeedsEveryContainerHeld(t *testing.T) {
	d := testDestination()
	d.arrival("c1").state = arrivalHeld
	d.arrival("c2").state = arrivalRestoring
	if _, err := d.resume(t.Context()); err == nil {
		t.Error("half a pod was let go")
	}
	if d.arrival("c1").state != arrivalHeld {
		t.Error("a container of a pod that is not complete was let go")
	}
}

func TestKillEndsTheWaitOfAParkedContainer(t *testing.T) {
	d := testDestination()
	ended := park(t, d, "c1")
	killed := errors.New("killed")
	d.cancel("c1", killed)
	if err := <-ended; !errors.Is(err, killed) {
		t.Errorf("got %v", err)
	}
}

// What the pod's processes want first is a matter of the pod: it is put in place when there is nothing else to do, and shared out.
func TestWhatAPodWantsFirstWaitsForItsLastContainer(t *testing.T) {
	d := testDestination()
	ids := []string{"c1", "c2", "c3", "c4"}
	for _, id := range ids {
		a := d.arrival(id)
		a.state, a.fill = arrivalRestoring, new(fill)
	}
	for i, id := range ids {
		if err := d.move(d.arrival(id), arrivalHeld); err != nil {
			t.Fatal(err)
		}
		want := 0
		if i == len(ids)-1 {
			want = len(ids)
		}
		d.mu.Lock()
		got := len(d.heldLocked())
		d.mu.Unlock()
		if got != want {
			t.Errorf("%d of %d containers are held: %d fill in what they want first, not %d", i+1, len(ids), got, want)
		}
	}
	if got := d.orderOf(&shimv1.RestoreRequest{}, 1).Foremost; got != lazy.Foremost/4 {
		t.Errorf("a container of four may have %d pages of %d in place", got, lazy.Foremost)
	}
}
