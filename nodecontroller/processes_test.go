package nodecontroller

import (
	"context"
	"errors"
	"strings"
	"testing"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

func TestPodWhoseProcessesAreInTheWayIsRefusedBeforeAnythingIsMade(t *testing.T) {
	c := newTestCluster(t)
	c.a.run()
	c.a.findings = []obstacle.Finding{obstacle.Refuse("process 7 has an io_uring"), obstacle.Warn("beside"), obstacle.Refuse("process 8 is traced")}
	events := 0
	_, err := c.a.migrate(&nodev1.MigrateRequest{Pod: "p", To: "b"}, func(*nodev1.Event) { events++ })
	want := "pod default/p cannot be moved to node b: (1) process 7 has an io_uring; (2) process 8 is traced"
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "beside") {
		t.Errorf("%v, want %q", err, want)
	}
	if left := append(c.a.left(), c.b.left()...); events != 0 || len(left) != 0 || c.b.only() != nil {
		t.Errorf("%d events, left %v, pod on b %v", events, left, c.b.only() != nil)
	}
	c.check(false)
}

func TestWarningsAboutProcessesAreToldAndThePodMoves(t *testing.T) {
	c := newTestCluster(t)
	c.a.run()
	c.a.findings = []obstacle.Finding{obstacle.Warn("3 connections are closed")}
	var warned []string
	last, err := c.a.migrate(&nodev1.MigrateRequest{Pod: "p", To: "b"}, func(e *nodev1.Event) {
		if e.Kind == "warning" {
			warned = append(warned, e.Message)
		}
	})
	if err != nil || !last.GetResult().GetSucceeded() {
		t.Fatalf("%v, %v", last, err)
	}
	if len(warned) != 1 || warned[0] != "3 connections are closed" {
		t.Errorf("warned %q", warned)
	}
}

// What is done to processes for a move is not taken for something of the pod's.
func TestProcessesOfAPodThatMovesAreNotLookedAt(t *testing.T) {
	c := newTestCluster(t)
	c.a.run()
	pod, err := c.a.Find(context.Background(), "p")
	if err != nil {
		t.Fatal(err)
	}
	d := c.a.daemon
	d.processes = func(context.Context, cri.Pod, bool) ([]obstacle.Finding, error) { return nil, errors.New("looked") }
	d.mu.Lock()
	d.recovering["m-1"] = record{Migration: "m-1", Sandbox: pod.ID}
	d.mu.Unlock()
	if _, err := d.migrate(context.Background(), &nodev1.MigrateRequest{Pod: "p", To: "b"}, nil); !errors.Is(err, errBusy) {
		t.Errorf("%v, want %v", err, errBusy)
	}
	d.mu.Lock()
	delete(d.recovering, "m-1")
	d.mu.Unlock()
	if _, err := d.migrate(context.Background(), &nodev1.MigrateRequest{Pod: "p", To: "b"}, nil); err == nil || !strings.Contains(err.Error(), "looked") {
		t.Errorf("%v", err)
	}
}

func TestRefusalForProcessesIsOneOfThePod(t *testing.T) {
	err := error(&immovable{obstacle.Error("default/p", "b", []obstacle.Finding{obstacle.Refuse("why")})})
	if !errors.Is(err, cri.ErrImmovable) || !errors.Is(err, obstacle.ErrRefused) || err.Error() != "pod default/p cannot be moved to node b: why" {
		t.Errorf("%v", err)
	}
}
