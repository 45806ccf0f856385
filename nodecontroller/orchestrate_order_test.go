package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// inOrder notes the calls of a cluster, and has one of them fail.
type inOrder struct {
	Orchestrator
	mu    sync.Mutex
	calls []string // guarded by mu
	fails string   // the call that does, with its number
}

func (o *inOrder) note(call string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 1
	for _, c := range o.calls {
		if strings.HasPrefix(c, call) {
			n++
		}
	}
	o.calls = append(o.calls, fmt.Sprint(call, n))
	if o.fails == fmt.Sprint(call, n) {
		return errors.New("broken by the test")
	}
	return nil
}

func (o *inOrder) Await(context.Context, string) error { return o.note("await") }
func (o *inOrder) Quiet(context.Context, string) error { return o.note("quiet") }
func (o *inOrder) Agree(context.Context, string) error { return o.note("agree") }

// Nothing is asked of a cluster while the pod is frozen, unless the pod comes late: then the destination votes first.
func TestTheClusterIsAskedBeforeThePodIsFrozen(t *testing.T) {
	for _, k := range []struct {
		late        bool
		fails, want string
		moves       bool
	}{
		{false, "", "await1 quiet1 await2 agree1 freeze1 decide1", true},
		{false, "quiet1", "await1 quiet1 await2 agree1 freeze1 decide1", true}, // only longer frozen
		{false, "await2", "await1 quiet1 await2", false},
		{false, "agree1", "await1 quiet1 await2 agree1", false},
		{false, "freeze1", "await1 quiet1 await2 agree1 freeze1", false},
		{true, "", "await1 quiet1 freeze1 agree1 decide1", true},
		{true, "agree1", "await1 quiet1 freeze1 agree1", false},
	} {
		begin := newKubernetes
		if k.late {
			begin = newLateKubernetes
		}
		c, _ := begin(t)
		o := &inOrder{Orchestrator: c.orchestrator, fails: k.fails}
		c.fault = &fault{call: "source.CutOver", do: func(c *testCluster) error {
			c.mu.Lock()
			c.fault, c.struck = &fault{call: "source.Commit", do: func(*testCluster) error { return o.note("decide") }}, make(chan struct{})
			c.mu.Unlock()
			return o.note("freeze")
		}}
		moved, err := c.a.daemon.Orchestrate(t.Context(), &nodev1.MigrateRequest{Pod: "default/p", To: "b", LatePod: k.late}, o)
		if err != nil {
			t.Fatal(err)
		}
		<-moved.Done()
		o.mu.Lock()
		if got := strings.Join(o.calls, " "); got != k.want {
			t.Errorf("with %q failing the cluster was asked %s, want %s", k.fails, got, k.want)
		}
		o.mu.Unlock()
		if got := moved.Migration().Result; got.GetSucceeded() != k.moves {
			t.Errorf("with %q failing: %v", k.fails, got)
		}
		c.settled()
		if !k.moves {
			c.removePodOfB(t)
		}
		c.check(k.moves)
	}
}
