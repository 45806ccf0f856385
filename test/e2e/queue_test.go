package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/workload"
)

// configured has lines before those of a node's configuration, until the end of the test.
func configured(t *testing.T, n *lab.Node, lines string) {
	t.Helper()
	path := n.Path("/etc/godwit/node.toml")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	restart := func(config []byte) {
		if err := os.WriteFile(path, config, 0o600); err != nil {
			t.Error(err)
		}
		n.KillDaemon()
		// Also at the end of the test, when its own context is over.
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(moveTimeout))
		defer cancel()
		for {
			_, err := n.Exec(ctx, "godwitctl", "pods")
			if err == nil {
				return
			}
			select {
			case <-ctx.Done():
				t.Errorf("godwit-node does not come back: %v", err)
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	t.Cleanup(func() { restart(old) })
	restart(append([]byte(lines), old...))
}

// Pods that may not leave yet wait, say where in the queue, and go by their priority.
func TestPodsLeaveANodeByPriority(t *testing.T) {
	a, b := nodes(t)
	configured(t, a, "moves = 1\n")
	ctx := within(t, 3*moveTimeout)
	pods := make([]*pod, 3)
	for i := range pods {
		pods[i] = runPod(t, a, lab.PodSpec{Name: fmt.Sprint("queued-", i), Containers: []lab.ContainerSpec{container(t, workload.Ticker, workload.Port)}})
	}
	start := func(p *pod, flags ...string) *move.Move {
		m, err := move.Start(ctx, a, p.name, b.Name, flags...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	await := func(m *move.Move, message string) {
		_, err := m.AwaitFunc(ctx, func(e move.Event) bool { return e.Kind == "queued" && e.Message == message })
		if err != nil {
			t.Fatalf("%q: %v", message, err)
		}
	}
	// It does not end by itself.
	first := start(pods[0], "--bandwidth", "1KiB", "--compression", "none")
	if _, err := first.Await(ctx, "preparing"); err != nil {
		t.Fatal(err)
	}
	late := start(pods[1])
	await(late, "waits: 1st in the queue of node a")
	urgent := start(pods[2], "--priority", "5")
	await(urgent, "waits: 1st in the queue of node a")
	await(late, "waits: 2nd in the queue of node a")
	if err := first.Interrupt(); err != nil {
		t.Fatal(err)
	}
	_, _ = first.Wait(ctx) // it was cancelled
	for _, m := range []*move.Move{urgent, late} {
		if _, err := m.Wait(ctx); err != nil {
			t.Error(err)
		}
	}
	before, _ := urgent.Event("cleaned")
	after, ok := late.Event("preparing")
	if !ok || after.Time.Before(before.Time) {
		t.Errorf("the pod of lower priority left at %v, when the other was there at %v", after.Time, before.Time)
	}
}
