package nodecontroller

import (
	"errors"
	"testing"
	"time"
)

// The source's node dies when it has decided, before it has had its pod replaced: the destination does, and the pod runs
// there while the source is away. When that comes back it finds nothing to do but to say so.
func TestALatePodRunsThoughItsSourceDiesAfterTheDecision(t *testing.T) {
	c, _ := newLateKubernetes(t)
	c.takeOverAfter = time.Millisecond
	c.b.stop()
	c.b.start()
	c.fault = &fault{call: "cluster.MakePod", do: func(c *testCluster) error {
		c.a.dies()
		return errors.New("the node dies")
	}}
	if _, err := c.orchestrateLate("m-away"); err != nil {
		t.Fatal(err)
	}
	c.until("the pod running on b", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.running["b"]
	})
	c.a.restarts.Wait()
	if c.a.only() != nil {
		t.Error("the source's pod is still in the cluster")
	}
	c.a.start()
	c.settled()
	c.check(true)
	c.checkFiles(t, true, movedDir)
}

// until waits for what no event tells.
func (c *testCluster) until(what string, is func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("it never came: %s", what)
		}
	}
}
