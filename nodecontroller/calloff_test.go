package nodecontroller

import (
	"errors"
	"strings"
	"testing"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// The cluster agrees before the pod is frozen. When the destination's pod is removed from it after that, the source runs on as
// long as it has not decided, and the destination owns the pod if it has.
func TestAPodThatIsRemovedAfterTheClusterAgreedIsNotCommitted(t *testing.T) {
	why := errors.New("the destination's pod was deleted")
	for _, k := range []struct {
		call      string
		after     bool
		committed bool
	}{
		{"source.CutOver", false, false},
		{"source.CutOver", true, false},
		{"destination.Restore", false, false},
		{"destination.Restore", true, false},
		{"source.Commit", false, true}, // the destination has said that it holds the pod
		{"source.Commit", true, true},
		{"destination.Resume", false, true},
		{"destination.Resume", true, true},
	} {
		c, source := newKubernetes(t)
		c.fault = &fault{call: k.call, after: k.after, do: func(c *testCluster) error {
			c.b.daemon.Unwant("m-removed", why)
			return nil
		}}
		o, err := c.orchestrate("m-removed")
		if err != nil {
			t.Fatal(err)
		}
		c.awaitEnd(o)
		c.awaitStruck()
		c.settled()
		source.mu.Lock()
		committed := source.state == shimv1.State_STATE_COMMITTED
		source.mu.Unlock()
		if committed != k.committed {
			t.Errorf("%s, after it %v: committed %v", k.call, k.after, committed)
		}
		if r := o.Migration().Result; !committed && !strings.Contains(r.GetError(), why.Error()) {
			t.Errorf("%s, after it %v: it ended with %v", k.call, k.after, r)
		}
		if dropped := c.b.daemon.Dropped("m-removed"); dropped == committed {
			t.Errorf("%s, after it %v: committed %v, and the destination says that it has dropped it: %v", k.call, k.after, committed, dropped)
		}
		if c.a.daemon.Dropped("m-removed") || c.b.daemon.Dropped("m-other") {
			t.Error("a node has dropped what it was not the destination of")
		}
		if !committed {
			c.removePodOfB(t)
			c.saysWhy(t, "m-removed", why)
		}
		c.check(committed)
		c.checkFiles(t, committed, aheadDir, movedDir)
	}
}

// saysWhy sees that b tells a why it has dropped a migration, and nobody else.
func (c *testCluster) saysWhy(t *testing.T, migration string, why error) {
	t.Helper()
	for peer, is := range map[string]bool{"a": true, "c": false} {
		p := &peerServer{d: c.b.daemon, peer: peer}
		r, err := p.Ping(t.Context(), &peerv1.PingRequest{Migration: migration})
		if said := strings.Contains(r.GetError(), why.Error()); said != is || (err == nil) != is || r.GetStage() != peerv1.Stage_STAGE_UNKNOWN {
			t.Errorf("node %s hears %v, %v", peer, r, err)
		}
	}
}

func TestWhatIsNotKnownIsNotUnwanted(t *testing.T) {
	c, _ := newKubernetes(t)
	c.b.daemon.Unwant("m-unknown", errors.New("gone"))
	if c.b.daemon.Dropped("m-unknown") {
		t.Error("it was dropped")
	}
}
