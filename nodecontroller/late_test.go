package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/pagestream/store"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// lateKubernetes is a cluster that has the destination's pod made only when the
// source's is gone, as a StatefulSet's controller does.
type lateKubernetes struct{ testKubernetes }

func (k lateKubernetes) MakePod(context.Context, string) error {
	return k.call("MakePod", func() error { return nil })
}

func (k lateKubernetes) RemoveSource(ctx context.Context, migration string) error {
	return k.call("RemoveSource", func() error {
		if p := k.c.a.only(); p != nil {
			if err := k.c.a.Remove(ctx, p.id); err != nil {
				return err
			}
		}
		if k.c.b.only() == nil {
			k.c.b.newDestination(migration)
		}
		return nil
	})
}

// newLateKubernetes is a cluster with a StatefulSet's pod on node a.
func newLateKubernetes(t *testing.T) (*testCluster, *testPod) {
	c, p := newKubernetes(t)
	c.orchestrator = lateKubernetes{testKubernetes{c}}
	c.remakes.Store(true)
	t.Cleanup(func() { c.remakes.Store(false) })
	return c, p
}

func (c *testCluster) orchestrateLate(id string) (*Orchestrated, error) {
	return c.a.daemon.Orchestrate(context.Background(), &nodev1.MigrateRequest{Pod: "default/p", To: "b", Migration: id, LatePod: true}, c.orchestrator)
}

func TestPodThatComesLateMoves(t *testing.T) {
	c, _ := newLateKubernetes(t)
	o, err := c.orchestrateLate("m-late")
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	var last *nodev1.Event
	_ = o.Events(t.Context(), func(e *nodev1.Event) error {
		if last = e; e.Kind != kindProgress {
			kinds = append(kinds, e.Kind)
		}
		return nil
	})
	if r := last.GetResult(); !r.GetSucceeded() || r.GetDestination().GetNode() != "b" || r.GetDowntime().GetMeasuredUs() == 0 {
		t.Errorf("ended with %v", last)
	}
	want := "accepted preparing prepared started tracking converged freezing committed place resumed cleaned ended"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("events %s\nwant   %s", got, want)
	}
	c.settled()
	c.check(true)
	c.checkFiles(t, true, movedDir)
}

// As TestWhateverBreaksThePodRunsOnceWhereTheDecisionSays, where the pod comes late.
func TestWhateverBreaksAPodThatComesLateRunsOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("breaks 100 migrations")
	}
	calls := []string{
		"source.Begin", "cluster.Await", "source.CutOver", "cluster.Agree", "source.Commit", "cluster.MakePod", "cluster.RemoveSource",
		"destination.WaitParked", "destination.Restore", "destination.Resume",
	}
	broken := errors.New("broken by the test")
	kinds := map[string]func(c *testCluster) error{
		"fails":            func(*testCluster) error { return broken },
		"source dies":      func(c *testCluster) error { c.a.restart(); return broken },
		"destination dies": func(c *testCluster) error { c.b.restart(); return broken },
		"both daemons die": func(c *testCluster) error { c.a.restart(); c.b.restart(); return broken },
		"operator cancels": func(c *testCluster) error { c.a.cancelAll(); return nil },
	}
	for _, call := range calls {
		for kind, do := range kinds {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s, after it %v", kind, call, after), func(t *testing.T) {
					t.Parallel()
					breakLate(t, fault{call: call, after: after, do: do})
				})
			}
		}
	}
}

func breakLate(t *testing.T, f fault) {
	c, source := newLateKubernetes(t)
	c.fault = &f
	o, err := c.orchestrateLate("m-broken")
	if err != nil {
		t.Fatal(err)
	}
	c.awaitEnd(o)
	c.awaitStruck()
	c.settled()
	source.mu.Lock()
	committed := source.state == shimv1.State_STATE_COMMITTED
	source.mu.Unlock()
	c.check(committed)
	c.checkFiles(t, committed, movedDir)
	if !committed && c.b.only() != nil {
		t.Error("a pod was made on the destination, and the source runs on")
	}
	if m, ok := c.a.daemon.Migration("m-broken"); ok && m.Result.GetSucceeded() != committed || committed && ok && m.Result.GetDestination().GetNode() != "b" {
		t.Errorf("committed %v, the daemon says %v", committed, m)
	}
}

func TestShimOfALatePodsSourceDiesInTheDecision(t *testing.T) {
	c, source := newLateKubernetes(t)
	c.fault = &fault{call: "source.Commit", do: func(*testCluster) error {
		source.kill()
		return errors.New("killed")
	}}
	o, err := c.orchestrateLate("")
	if err != nil {
		t.Fatal(err)
	}
	c.awaitEnd(o)
	c.settled()
	if !o.Migration().Result.GetSucceeded() {
		t.Errorf("ended with %v", o.Migration().Result)
	}
	c.checkFiles(t, true, movedDir)
}

// A StatefulSet's pod that is deleted before it was restored is made again: the
// migration's copy runs in that.
func TestADeletedLatePodIsRestoredInTheNext(t *testing.T) {
	c, _ := newLateKubernetes(t)
	asked := 0
	first := ""
	c.mu.Lock()
	c.podLookup = func(_ context.Context, namespace, name, uid string) error {
		if namespace != "default" || name != "p" || uid != "u" {
			t.Errorf("asked for pod %s/%s of UID %s", namespace, name, uid)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.running["b"] {
			t.Error("it runs already")
		}
		switch asked++; asked {
		case 1:
			return errors.New("the API server is away")
		case 2:
			first = c.b.only().id
			return ErrPodGone
		}
		return nil
	}
	c.mu.Unlock()
	o, err := c.orchestrateLate("m-deleted")
	if err != nil {
		t.Fatal(err)
	}
	c.awaitEnd(o)
	c.settled()
	c.check(true)
	c.checkFiles(t, true, movedDir)
	c.mu.Lock()
	defer c.mu.Unlock()
	if asked != 3 || c.b.only().id == first {
		t.Errorf("asked %d times, runs in %s, was held in %s", asked, c.b.only().id, first)
	}
}

// The next pod may be there before it is known that the first was deleted: it waits for its restore already, and must go on to.
func TestTheNextPodsSandboxOutlivesTheAttemptInTheFirst(t *testing.T) {
	c := newTestCluster(t)
	first, next := c.b.newDestination("m-next"), c.b.newDestination("m-next")
	r := record{Migration: "m-next", Stage: destinationAwaiting, Pod: "default/p", Peer: "a", Sandbox: first.id}
	m := c.b.daemon.blankIncoming(r, c.b.daemon.log)
	if err := m.clearAttempt(t.Context(), ErrPodGone); err != nil {
		t.Fatal(err)
	}
	if c.b.pod(first.id) != nil || c.b.pod(next.id) == nil || next.state == shimv1.State_STATE_ABORTED {
		t.Errorf("left: %v; the next is %v", c.b.only(), next.state)
	}
	if r := m.current(); r.Sandbox != "" {
		t.Errorf("sandbox %s is still on record", r.Sandbox)
	}
	if err := c.b.daemon.journal.remove("m-next"); err != nil {
		t.Fatal(err)
	}
}

// Nobody makes the pod, and an operator does not want to wait for it any more.
func TestALatePodIsGivenUpByAnOperator(t *testing.T) {
	c, _ := newLateKubernetes(t)
	c.remakes.Store(false)
	o, err := c.a.daemon.Orchestrate(t.Context(), &nodev1.MigrateRequest{Pod: "default/p", To: "b", Migration: "m-given", LatePod: true}, podless{testKubernetes{c}})
	if err != nil {
		t.Fatal(err)
	}
	_ = o.Events(t.Context(), func(e *nodev1.Event) error {
		if e.Kind != "committed" {
			return nil
		}
		_, err := (&nodeServer{d: c.b.daemon}).Resolve(t.Context(), &nodev1.ResolveRequest{Migration: "m-given", Abort: true})
		return err
	})
	c.awaitEnd(o)
	c.settled()
	if m := o.Migration(); !m.Result.GetLost() || !strings.Contains(m.Result.GetError(), errGivenUp.Error()) {
		t.Errorf("ended with %v", m)
	}
	c.checkFiles(t, false)
}

// podless is a cluster that removes the source's pod and makes none.
type podless struct{ testKubernetes }

func (k podless) MakePod(context.Context, string) error { return nil }

func TestASealedDestinationDoesAsTheSourceSays(t *testing.T) {
	for source, want := range map[peerv1.Outcome]destinationAction{
		peerv1.Outcome_OUTCOME_COMMITTED:   destinationAwait,
		peerv1.Outcome_OUTCOME_ABORTED:     destinationAbandon,
		peerv1.Outcome_OUTCOME_PENDING:     destinationHold,
		peerv1.Outcome_OUTCOME_UNSPECIFIED: destinationHold,
	} {
		for shim := shimUnreachable; shim <= shimAborted; shim++ {
			if got := decideDestination(destinationSealed, shim, source); got != want {
				t.Errorf("source %v, shim %v: %v, want %v", source, shim, got, want)
			}
			if got := decideDestination(destinationAwaiting, shim, source); got != destinationAwait {
				t.Errorf("awaiting, source %v, shim %v: %v", source, shim, got)
			}
		}
	}
}

func TestOnlyAPodOfKubeletsComesLate(t *testing.T) {
	if err := checkRequest(&nodev1.MigrateRequest{Pod: "p", To: "b", LatePod: true}); err == nil {
		t.Error("a pod that the daemon makes was to come late")
	}
}

// A destination that is started again after the commit has lost what it kept in
// memory: the source hears it, and its cluster makes the pod afresh.
func TestALatePodWhoseDestinationIsLostIsGivenUp(t *testing.T) {
	c, _ := newLateKubernetes(t)
	c.remakes.Store(false)
	c.fault = &fault{call: "cluster.MakePod", do: func(c *testCluster) error {
		c.b.restarts.Go(func() {
			c.b.stop()
			if err := store.Cleanup(filepath.Join(c.b.state, "store", "m-lost")); err != nil {
				t.Error(err)
			}
			c.b.start()
		})
		c.b.restarts.Wait()
		return nil
	}}
	o, err := c.orchestrateLate("m-lost")
	if err != nil {
		t.Fatal(err)
	}
	c.awaitEnd(o)
	c.settled()
	m := o.Migration()
	if m.Phase != nodev1.Phase_PHASE_FAILED || !m.Result.GetLost() || m.Result.GetSucceeded() || !strings.Contains(m.Result.GetError(), errStoreLost.Error()) {
		t.Errorf("ended with %v", m)
	}
	c.checkFiles(t, false)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running["a"] || c.running["b"] {
		t.Errorf("runs on %v", c.running)
	}
}
