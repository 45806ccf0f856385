package nodecontroller

import (
	"strings"
	"testing"
	"time"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// moveBack asks, when the pod has come to b and its memory is still filling in,
// for the move back to a. The channels tell that it waits, and how it ended.
func moveBack(t *testing.T, timeout time.Duration) (c *testCluster, waits chan *nodev1.Event, ends chan *nodev1.Event) {
	t.Helper()
	c = newTestCluster(t)
	c.slowFill = true
	c.a.run()
	if last, err := c.migrate(modeLive); err != nil || !last.Result.GetSucceeded() {
		t.Fatalf("there: %v, %v", last, err)
	}
	waits, ends = make(chan *nodev1.Event, 1), make(chan *nodev1.Event, 1)
	req := &nodev1.MigrateRequest{Pod: "p", To: "a", TimeoutMs: uint64(timeout.Milliseconds())}
	go func() {
		defer close(ends)
		last, err := c.b.migrate(req, func(e *nodev1.Event) {
			if e.Kind == "waiting" {
				waits <- e
			}
		})
		if err != nil {
			t.Errorf("back: %v", err)
			return
		}
		ends <- last
	}()
	return c, waits, ends
}

func TestMoveOfAPodThatIsStillFillingInWaitsForItsMemory(t *testing.T) {
	c, waits, ends := moveBack(t, 0)
	e := <-waits
	if e.Phase != nodev1.Phase_PHASE_PENDING || !strings.Contains(e.Message, "has all its memory in") {
		t.Errorf("while it waits: %v", e)
	}
	c.b.only().fill()
	last := <-ends
	if !last.GetResult().GetSucceeded() {
		t.Fatalf("back: %v", last)
	}
	c.a.only().fill()
	c.settled()
	if c.twoAtOnce || !c.running["a"] || c.b.only() != nil {
		t.Errorf("two at once %v, runs %v, pod on b %v", c.twoAtOnce, c.running, c.b.only() != nil)
	}
}

func TestOnlyOneMigrationWaitsForAPodsMemory(t *testing.T) {
	c, waits, ends := moveBack(t, 0)
	<-waits
	if _, err := c.b.migrate(&nodev1.MigrateRequest{Pod: "p", To: "a"}, func(*nodev1.Event) {}); err == nil || !strings.Contains(err.Error(), "migration already") {
		t.Errorf("a second one: %v", err)
	}
	c.b.cancelAll()
	<-ends
}

func TestWaitingForAPodsMemoryEndsByCancelAndTimeoutAndLeavesThePodAlone(t *testing.T) {
	for _, k := range []struct {
		name    string
		timeout time.Duration
		end     func(*testCluster)
		phase   nodev1.Phase
		why     error
	}{
		{"cancelled", 0, func(c *testCluster) { c.b.cancelAll() }, nodev1.Phase_PHASE_CANCELLED, ErrCancelled},
		{"timed out", 200 * time.Millisecond, func(*testCluster) {}, nodev1.Phase_PHASE_FAILED, ErrTimeout},
	} {
		t.Run(k.name, func(t *testing.T) {
			c, waits, ends := moveBack(t, k.timeout)
			<-waits
			k.end(c)
			last := <-ends
			if last.GetPhase() != k.phase || !strings.Contains(last.GetResult().GetError(), k.why.Error()) {
				t.Errorf("ended with %v", last)
			}
			c.b.only().fill()
			c.settled()
			c.check(true)
		})
	}
}

func TestMoveFailsIfThePodIsGoneAfterTheWait(t *testing.T) {
	c, waits, ends := moveBack(t, 0)
	<-waits
	p := c.b.only()
	if err := c.b.Remove(t.Context(), p.id); err != nil {
		t.Fatal(err)
	}
	last := <-ends
	if last.GetPhase() != nodev1.Phase_PHASE_FAILED {
		t.Errorf("ended with %v", last)
	}
	c.settled()
}
