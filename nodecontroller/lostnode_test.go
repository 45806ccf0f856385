package nodecontroller

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// offLater is a resolver of one node whose machine is off as soon as its operator says so.
type offLater struct{ off atomic.Bool }

func (o *offLater) Address(string) (string, error) {
	if o.off.Load() {
		return "", ErrOutOfService
	}
	return "", nil
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
		told := make(chan struct{}, 1)
		c.fault = &fault{call: "destination.Resume", do: func(c *testCluster) error {
			c.b.dies()
			c.note("b", false)
			told <- struct{}{}
			return errors.New("the machine is off")
		}}
		o, err := c.orchestrate("m-lost")
		if err != nil {
			t.Fatal(err)
		}
		<-told
		c.b.restarts.Wait()
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
			<-o.Done()
			m := o.Migration()
			if r := m.Result; m.Phase != nodev1.Phase_PHASE_FAILED || r.GetSucceeded() || !r.GetLost() || !strings.Contains(r.GetError(), ErrOutOfService.Error()) {
				t.Errorf("%v", m)
			}
		}
		if left, err := c.a.daemon.journal.load(); err != nil || len(left) > 0 {
			t.Errorf("journal: %v, %v", left, err)
		}
	}
}
