package nodecontroller

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/pagestream/store"
)

// offLater is a resolver of one node whose machine is off as soon as its operator says so.
type offLater struct{ off atomic.Bool }

func (o *offLater) Address(string) (string, error) {
	if o.off.Load() {
		return "", ErrOutOfService
	}
	return "", nil
}

// lostAfterCommit begins a migration whose destination's machine goes off, with the pod that it owns by then, when it is to hear of the commit.
func (c *testCluster) lostAfterCommit() *Orchestrated {
	told := make(chan struct{}, 1)
	c.fault = &fault{call: "destination.Resume", do: func(c *testCluster) error {
		c.b.dies()
		c.note("b", false)
		told <- struct{}{}
		return errors.New("the machine is off")
	}}
	o, err := c.orchestrate("m-lost")
	if err != nil {
		c.t.Fatal(err)
	}
	<-told
	c.b.restarts.Wait()
	return o
}

// mustEndLost waits for a migration's end, which has to be that its pod is lost, for a reason.
func mustEndLost(t *testing.T, o *Orchestrated, reason error) {
	t.Helper()
	<-o.Done()
	m := o.Migration()
	if r := m.Result; m.Phase != nodev1.Phase_PHASE_FAILED || r.GetSucceeded() || !r.GetLost() || !strings.Contains(r.GetError(), reason.Error()) {
		t.Errorf("%v", m)
	}
}

// The destination's machine is lost with the pod that it owns, before it could say that it has it: nothing runs on the source
// any more, its pod goes from the cluster, and the migration ends when somebody says that the machine is off.
func TestAMigrationEndsWhoseDestinationIsLostAfterTheCommit(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		c, _ := newKubernetes(t)
		resolve := func() *offLater {
			o := new(offLater) // the configuration has the address as well
			c.a.daemon.SetPeerResolver(o)
			return o
		}
		b := resolve()
		o := c.lostAfterCommit()
		if restarted {
			c.a.restart()
			c.a.restarts.Wait()
			b = resolve()
		}
		if c.a.only() == nil {
			t.Fatal("the source's pod is removed while its destination may come back")
		}
		b.off.Store(true)
		c.until("the source's pod out of the cluster", func() bool { return c.a.only() == nil })
		if !restarted {
			mustEndLost(t, o, ErrOutOfService)
		}
		c.until("an empty journal", func() bool {
			left, err := c.a.daemon.journal.load()
			if err != nil {
				t.Fatal(err)
			}
			return len(left) == 0
		})
	}
}

// reboots starts a node again whose daemon has ended: nothing runs there, and stores are empty. Records on its disk are kept or lost.
func (n *testNode) reboots(recorded bool) {
	t := n.cluster.t
	n.mu.Lock()
	pods := n.pods
	n.pods = make(map[string]*testPod)
	n.mu.Unlock()
	for _, p := range pods {
		p.kill()
	}
	stores, err := filepath.Glob(filepath.Join(n.state, "store", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stores {
		if err := store.Cleanup(s); err != nil {
			t.Fatal(err)
		}
	}
	gone := n.state
	if recorded {
		gone = filepath.Join(n.state, bootName)
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	n.start()
}

// The destination's machine is started again before it could say that it has the pod, which it has lost then, whether it still knows of it or
// not: the migration must not end as if the pod ran there.
func TestAMigrationFailsWhoseDestinationIsStartedAgainAfterTheCommit(t *testing.T) {
	for _, recorded := range []bool{false, true} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("its record kept %v, the source's daemon restarted %v", recorded, restarted), func(t *testing.T) {
				c, _ := newKubernetes(t)
				o := c.lostAfterCommit()
				if restarted {
					c.a.stop()
				}
				c.b.reboots(recorded)
				if restarted {
					c.a.start()
				}
				c.until("the source's pod out of the cluster", func() bool { return c.a.only() == nil })
				if restarted {
					c.mu.Lock()
					defer c.mu.Unlock()
					if len(c.lost) != 1 || !errors.Is(c.lost[0], errDestinationLost) {
						t.Errorf("the cluster was told of %v", c.lost)
					}
					return
				}
				mustEndLost(t, o, errDestinationLost)
				if len(c.lost) > 0 {
					t.Errorf("the cluster was told of %v, its events tell it as well", c.lost)
				}
			})
		}
	}
}

// What the destination held dies in the very decision, and nothing of it is left there when the source tells that it is the destination's.
func TestAMigrationFailsWhoseDestinationHadDroppedThePod(t *testing.T) {
	for name, restart := range map[string]func(c *testCluster){
		"":              func(*testCluster) {},
		"a's restarted": func(c *testCluster) { c.a.restart() },
		"b's restarted": func(c *testCluster) {
			c.b.stop()
			c.b.start()
		},
	} {
		restarted := name == "a's restarted"
		c, _ := newKubernetes(t)
		c.fault = &fault{call: "source.Commit", after: true, do: func(c *testCluster) error {
			c.b.only().kill()
			c.until("the pod dropped", func() bool {
				m, _ := c.b.daemon.Migration("m-held")
				return strings.Contains(m.GetDetail(), "a has not heard yet")
			})
			restart(c)
			return nil
		}}
		o, err := c.orchestrate("m-held")
		if err != nil {
			t.Fatal(err)
		}
		c.awaitEnd(o)
		c.awaitStruck()
		c.settled()
		if c.a.only() != nil {
			t.Error("the source's pod is still there, and dead")
		}
		if !restarted {
			mustEndLost(t, o, errDestinationLost)
		}
		c.mu.Lock()
		if restarted && (len(c.lost) != 1 || !errors.Is(c.lost[0], errDestinationLost)) {
			t.Errorf("the cluster was told of %v", c.lost)
		}
		c.mu.Unlock()
	}
}

// And its source is never heard of again: an operator's word ends it.
func TestADroppedPodWhoseSourceIsGoneIsInDoubt(t *testing.T) {
	c, _ := newKubernetes(t)
	on := func() *nodev1.Migration {
		m, _ := c.b.daemon.Migration("m-gone")
		return m
	}
	c.fault = &fault{call: "source.Commit", after: true, do: func(c *testCluster) error {
		c.b.only().kill()
		c.until("the pod dropped", func() bool { return strings.Contains(on().GetDetail(), "a has not heard yet") })
		c.a.dies()
		return nil
	}}
	o, err := c.orchestrate("m-gone")
	if err != nil {
		t.Fatal(err)
	}
	c.awaitEnd(o)
	c.awaitStruck()
	c.a.restarts.Wait()
	c.until("doubt", func() bool { return on().GetInDoubt() })
	if _, err := (&nodeServer{d: c.b.daemon}).Resolve(t.Context(), &nodev1.ResolveRequest{Migration: "m-gone", Abort: true}); err != nil {
		t.Fatal(err)
	}
	c.until("nothing left", func() bool { return len(c.b.left()) == 0 })
}

// A node's name for the time since it was started is its daemons', one after the other, and another when it was started again.
func TestANodeKnowsThatItWasStartedAgain(t *testing.T) {
	dir := t.TempDir()
	open := func() string {
		j, err := openJournal(filepath.Join(dir, "disk"), filepath.Join(dir, "run", "migrations"))
		if err != nil {
			t.Fatal(err)
		}
		return j.boot
	}
	first := open()
	if again := open(); first == "" || again != first {
		t.Errorf("a daemon calls it %q, the next one %q", first, again)
	}
	if err := os.RemoveAll(filepath.Join(dir, "run")); err != nil {
		t.Fatal(err)
	}
	if later := open(); later == first {
		t.Error("started again it is called the same")
	}
}
