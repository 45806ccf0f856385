package nodecontroller

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/standstill"
	"godwit.dev/godwit/pagestream/track"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// awaitStruck waits until the test's fault has done its worst, after the migration has ended by it: a daemon that dies of it takes its calls with it.
func (c *testCluster) awaitStruck() {
	c.t.Helper()
	select {
	case <-c.struck:
	case <-time.After(45 * time.Second):
		c.t.Fatal("the fault was never reached")
	}
}

// awaitEnd waits for the end of a migration, as its daemon sees it.
func (c *testCluster) awaitEnd(o *Orchestrated) {
	c.t.Helper()
	select {
	case <-o.Done():
	case <-time.After(2 * time.Minute):
		c.t.Fatalf("the migration does not end: %v", o.Migration())
	}
}

// settled waits until neither node has anything of a migration left.
func (c *testCluster) settled() {
	c.t.Helper()
	c.a.restarts.Wait()
	c.b.restarts.Wait()
	deadline := time.Now().Add(45 * time.Second)
	for {
		left := append(c.a.left(), c.b.left()...)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("left behind: %v", left)
		}
		time.Sleep(20 * time.Millisecond) // two daemons, one of them dead for a while: no event tells
	}
}

// left is what migrations left on the node: records, admissions, stores, mounts, and
// what the daemon is still at (its record goes before it says that it has ended).
func (n *testNode) left() []string {
	var left []string
	for _, m := range n.daemon.migrations() {
		if m.EndedUnixNano == 0 {
			left = append(left, n.name+" "+m.Id+" "+m.Detail)
		}
	}
	for _, dir := range []string{"migrations", "admit", "store", "images"} {
		entries, _ := os.ReadDir(filepath.Join(n.state, dir))
		for _, e := range entries {
			left = append(left, n.name+"/"+dir+"/"+e.Name())
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.state+"/") {
			left = append(left, line)
		}
	}
	return left
}

// check sees that exactly one copy runs, where it must, and that the other node
// has no pod.
func (c *testCluster) check(committed bool) {
	c.t.Helper()
	c.mu.Lock()
	running, two := map[string]bool{"a": c.running["a"], "b": c.running["b"]}, c.twoAtOnce
	c.mu.Unlock()
	if two {
		c.t.Error("two copies of the pod ran at once")
	}
	if running["a"] == committed || running["b"] != committed {
		c.t.Errorf("committed %v, but runs on a: %v, on b: %v", committed, running["a"], running["b"])
	}
	if (c.a.only() == nil) != committed || (c.b.only() != nil) != committed {
		c.t.Errorf("committed %v, but pods on a: %v, on b: %v", committed, c.a.only() != nil, c.b.only() != nil)
	}
}

func TestPodMovesAndNothingIsLeft(t *testing.T) {
	for _, mode := range []string{modeLive, modeCold} {
		t.Run(mode, func(t *testing.T) {
			c := newTestCluster(t)
			c.a.run()
			last, err := c.migrate(mode)
			if err != nil {
				t.Fatal(err)
			}
			if !last.Result.GetSucceeded() || last.Phase != nodev1.Phase_PHASE_SUCCEEDED || last.Destination.PodIp != "192.0.2.7" || last.Result.Downtime == nil {
				t.Errorf("last event %v", last)
			}
			c.settled()
			c.check(true)
			anew := standstill.Open(filepath.Join(c.a.state, standstill.FileName), slog.New(slog.DiscardHandler))
			learned := anew.Expect(standstill.Move{Pod: last.Result.Pod, Peer: "b", Containers: 1})
			if (learned.Restore > 0) != (mode == modeLive) {
				t.Errorf("the node expects %+v of the next move", learned)
			}
		})
	}
}

// Every call to a shim fails, or either daemon dies at it, before it and after
// it: wherever that is, the pod runs once, and where the shim's decision says.
func TestWhateverBreaksThePodRunsOnceWhereTheDecisionSays(t *testing.T) {
	if testing.Short() {
		t.Skip("breaks 60 migrations")
	}
	calls := []string{
		"destination.WaitParked", "source.Begin", "source.CutOver", "destination.Restore", "source.Commit", "destination.Resume",
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
				when := "before "
				if after {
					when = "after "
				}
				t.Run(kind+" "+when+call, func(t *testing.T) {
					t.Parallel()
					breakAt(t, fault{call: call, after: after, do: do})
				})
			}
		}
	}
}

// breakAt runs one migration into a fault.
func breakAt(t *testing.T, f fault) {
	c := newTestCluster(t)
	c.fault = &f
	source := c.a.run()
	_, _ = c.migrate(modeLive)
	c.awaitStruck()
	c.a.restarts.Wait()
	c.b.restarts.Wait()
	c.settled()
	source.mu.Lock()
	committed := source.state == shimv1.State_STATE_COMMITTED
	source.mu.Unlock()
	c.check(committed)
}

// restart is a daemon that dies and is started again, while the call that the
// test broke is still under way.
func (n *testNode) restart() {
	n.restarts.Go(func() {
		n.stop()
		n.start()
	})
}

// cancelAll breaks all migrations of the node off, without waiting.
func (n *testNode) cancelAll() {
	n.daemon.mu.Lock()
	defer n.daemon.mu.Unlock()
	for _, m := range n.daemon.outgoing {
		_ = m.abort(ErrCancelled)
	}
}

func TestShimOfTheSourceDiesInTheDecision(t *testing.T) {
	for _, after := range []bool{false, true} {
		c := newTestCluster(t)
		source := c.a.run()
		c.fault = &fault{call: "source.Commit", after: after, do: func(c *testCluster) error {
			source.kill() // takes the connection of this very call with it
			return errors.New("killed")
		}}
		last, err := c.migrate(modeLive)
		if err != nil {
			t.Fatal(err)
		}
		c.settled()
		// What the dead shim decided is not known; what it ran is dead, so the
		// destination's copy is the pod.
		c.check(true)
		if !last.Result.GetSucceeded() {
			t.Errorf("after %v: %v", after, last.Result)
		}
	}
}

func TestSecondMigrationOfAPodIsRefused(t *testing.T) {
	c := newTestCluster(t)
	c.a.run()
	refused := make(chan error, 1)
	c.fault = &fault{call: "source.CutOver", do: func(c *testCluster) error {
		_, err := c.migrate(modeLive)
		refused <- err
		return nil
	}}
	if _, err := c.migrate(modeLive); err != nil {
		t.Fatal(err)
	}
	if err := <-refused; err == nil || !strings.Contains(err.Error(), "migration already") {
		t.Errorf("second migration: %v", err)
	}
	c.settled()
	c.check(true)
}

func TestDestinationHoldsInDoubtUntilAnOperatorOrTheClusterDecides(t *testing.T) {
	resolve := func(gone bool) func(*Daemon, string) error {
		return func(d *Daemon, id string) error {
			s := &nodeServer{d}
			if _, err := s.Resolve(context.Background(), &nodev1.ResolveRequest{Migration: id}); err == nil {
				t.Error("resolved without a word")
			}
			_, err := s.Resolve(context.Background(), &nodev1.ResolveRequest{Migration: id, SourceIsGone: gone, Abort: !gone})
			return err
		}
	}
	for _, k := range []struct {
		gone   bool // the source, after it has committed
		decide func(*Daemon, string) error
	}{
		{true, resolve(true)},
		{false, resolve(false)},
		{false, (*Daemon).CallOff},
	} {
		gone := k.gone
		c := newTestCluster(t)
		c.a.run()
		c.fault = &fault{call: "source.Commit", after: gone, do: func(c *testCluster) error {
			c.a.dies()
			return errors.New("the node burns")
		}}
		_, _ = c.migrate(modeLive)
		c.a.restarts.Wait()
		id := c.b.awaitDoubt()
		c.mu.Lock()
		runs := c.running["b"]
		c.mu.Unlock()
		if runs {
			t.Fatal("runs in doubt")
		}
		if err := c.b.daemon.CallOff("another"); !errdefs.IsNotFound(err) {
			t.Errorf("another migration: %v", err)
		}
		if err := k.decide(c.b.daemon, id); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for len(c.b.left()) > 0 && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		if left := c.b.left(); len(left) > 0 || (c.b.only() != nil) != gone {
			t.Errorf("source gone %v: left %v, pod %v", gone, left, c.b.only() != nil)
		}
	}
}

func (n *testNode) awaitDoubt() string {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		n.daemon.mu.Lock()
		for id, m := range n.daemon.incoming {
			if m.status().InDoubt {
				n.daemon.mu.Unlock()
				return id
			}
		}
		n.daemon.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
	n.cluster.t.Fatal("never in doubt")
	return ""
}

func TestResultSaysWhichTrackerAndWhy(t *testing.T) {
	lacking := errors.New("not on this kernel")
	for _, k := range []struct {
		name     string
		tracker  string
		features track.Features
		mode     string
		engine   string
		says     string
	}{
		{name: "auto", mode: modeLive, engine: "WriteProtect", says: "PAGEMAP_SCAN"},
		{name: "auto without write-protection", features: track.Features{WPAsync: lacking}, mode: modeLive, engine: "SoftDirty", says: "soft-dirty"},
		{name: "auto without anything", features: track.Features{WPAsync: lacking, SoftDirty: lacking}, mode: modeCold, engine: "None", says: "neither"},
		{name: "none", tracker: "none", mode: modeCold, engine: "None", says: "asked for"},
	} {
		t.Run(k.name, func(t *testing.T) {
			c := newTestCluster(t)
			c.features = k.features
			c.a.run()
			last, err := c.a.migrate(&nodev1.MigrateRequest{Pod: "p", To: "b", Tracker: k.tracker}, func(*nodev1.Event) {})
			if err != nil {
				t.Fatal(err)
			}
			r := last.Result
			if !r.GetSucceeded() || r.GetMode() != k.mode || r.GetEngine() != k.engine || !strings.Contains(r.GetEngineReason(), k.says) {
				t.Errorf("%v", r)
			}
			c.settled()
			c.check(true)
			list, err := (&nodeServer{c.a.daemon}).List(context.Background(), &nodev1.ListRequest{})
			if err != nil || len(list.Migrations) != 1 || list.Migrations[0].Engine != k.engine || list.Migrations[0].EngineReason != r.GetEngineReason() {
				t.Errorf("status: %v, %v", list, err)
			}
		})
	}
}

func TestTrackerThatIsMissingIsRefusedBeforeAnythingIsDone(t *testing.T) {
	c := newTestCluster(t)
	c.features = track.Features{SoftDirty: errors.New("not on this kernel")}
	c.a.run()
	_, err := c.a.migrate(&nodev1.MigrateRequest{Pod: "p", To: "b", Tracker: "soft-dirty"}, func(*nodev1.Event) {})
	if err == nil || !strings.Contains(err.Error(), "not on this kernel") || !strings.Contains(err.Error(), "ask for auto, which is WriteProtect here") {
		t.Errorf("refused with %v", err)
	}
	if left := append(c.a.left(), c.b.left()...); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	c.check(false)
}
