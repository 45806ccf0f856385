package e2e

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// Two containers that together write three times what the link takes, and use 0.15 cores each to do so, on every machine: less than
// that could not be held back enough, see precopy.NextLimits. One may use 0.4 cores, the other whatever there is.
const (
	throttleMiB  = 8   // each
	throttleRate = 6   // MiB a second, each
	throttleWork = 100 // microseconds a page
	otherPort    = "7001"
)

var throttling = []string{"--bandwidth", "4MiB", "--compression", "none", "--on-stall", "throttle"}

// throttled is a migration of that pod.
type throttled struct {
	*scene
	// quotas are those that the containers had from the beginning, by name.
	quotas map[string]string
}

func newThrottled(t *testing.T) *throttled {
	t.Helper()
	a, b := nodes(t)
	limited := container(t, workload.Rewriter, workload.Port, fmt.Sprint(throttleMiB), fmt.Sprint(throttleRate), fmt.Sprint(throttleWork))
	limited.Name, limited.MilliCPU = "limited", 400
	free := container(t, workload.Rewriter, otherPort, fmt.Sprint(throttleMiB), fmt.Sprint(throttleRate), fmt.Sprint(throttleWork))
	free.Name = "free"
	s := &throttled{scene: &scene{t: t, from: a, to: b}}
	s.p = runPod(t, a, lab.PodSpec{Name: "throttled", Containers: []lab.ContainerSpec{limited, free}})
	s.quotas = s.quotasNow()
	if s.quotas["limited"] == s.quotas["free"] {
		t.Fatalf("quotas %v, want different ones", s.quotas)
	}
	return s
}

// quotasNow are the containers' quotas of processors where the pod is now.
func (s *throttled) quotasNow() map[string]string {
	s.t.Helper()
	quotas := map[string]string{}
	for name, port := range map[string]string{"limited": workload.Port, "free": otherPort} {
		found := limits(s.t, pidOf(s.t, s.p.node, workload.Rewriter, "\x00"+port+"\x00"))
		for file, quota := range found {
			if strings.HasPrefix(file, "cpu.") {
				quotas[name] = quota
			}
		}
	}
	return quotas
}

// held waits until both containers are held back.
func (s *throttled) held() {
	s.t.Helper()
	s.awaitFunc(func(e move.Event) bool {
		if e.Progress == nil || e.Progress.Throttle == 0 {
			return false
		}
		now := s.quotasNow()
		return now["limited"] != s.quotas["limited"] && now["free"] != s.quotas["free"]
	})
	for name := range s.quotas {
		if _, err := os.Stat(s.record(name)); err != nil {
			s.t.Errorf("nothing says what the quota of container %s was: %v", name, err)
		}
	}
}

// record is where the shim says what a container's quota was.
func (s *throttled) record(container string) string {
	return strings.TrimSuffix(s.p.rootfs(container), "rootfs") + "godwit/throttle.json"
}

// asBefore sees that the pod runs with the quotas that it had at first.
func (s *throttled) asBefore() {
	s.t.Helper()
	if now := s.quotasNow(); !maps.Equal(now, s.quotas) {
		s.t.Errorf("on node %s its quotas are %v, were %v", s.p.node.Name, now, s.quotas)
	}
	for name := range s.quotas {
		if _, err := os.Stat(s.record(name)); err == nil {
			s.t.Errorf("the record of container %s is still there", name)
		}
	}
	s.p.check(workload.Port)
	s.p.check(otherPort)
}

// A pod that writes faster than the link takes is held back until the rest can be copied, and has exactly its own quotas
// whatever comes of the migration.
func TestAPodThatWritesTooFastIsThrottledAndGetsItsQuotasBack(t *testing.T) {
	s := newThrottled(t)
	for _, c := range []struct {
		name string
		end  func(*throttled)
	}{
		{"cancelled", func(s *throttled) { interrupt(s.scene) }},
		{"the destination's shim is killed", func(s *throttled) { s.killShim() }},
		{"the source's daemon is killed", func(s *throttled) { s.killDaemon(s.from) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			explain(t, s.from, s.to)
			s.t, s.p.t, s.slack = t, t, maps.Clone(idle)
			s.ctx = within(t, 100*time.Second)
			before := settled(t, s.from, s.to)
			s.start(throttling...)
			s.held()
			c.end(s)
			if s.ended() {
				t.Fatal("it was moved all the same")
			}
			s.undone()
			s.asBefore()
			noMore(t, before, s.slack, s.from, s.to)
		})
	}
	s.t, s.p.t, s.ctx = t, t, within(t, 100*time.Second)
	s.start(throttling...)
	s.held()
	r, err := s.m.Wait(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.p.moved(s.to, r)
	s.asBefore()
	t.Log(r.StopReason)
	if last := r.Rounds[len(r.Rounds)-1].PredictedLast; last > r.MemoryBytes/2 {
		t.Errorf("%.1f of %.1f MiB were left for the last copy: %s", mib(last), mib(r.MemoryBytes), r.StopReason)
	}
	if census.Frozen(s.from) {
		t.Error("something is frozen on the source")
	}
}
