package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// A pod's clocks go on where they stood at each freeze, wherever it came from: the first time from its node's time, later from a time namespace of
// its own. Both nodes of the lab have the machine's clocks, so with each move the pod's fall behind by about as long as it stood still.
func TestAPodsClocksGoOnWhereTheyStood(t *testing.T) {
	needTimeNamespaces(t)
	a, b := nodes(t)
	p := program(t, a, workload.Ticker, workload.Port)
	before := map[string]time.Duration{"monotonic": 0, "boottime": 0}
	for _, to := range []*lab.Node{b, a, b} {
		begun := time.Now()
		result := p.moveTo(to)
		took := time.Since(begun)
		now := clockOffsets(t, to, workload.Ticker)
		stood := time.Duration(result.DowntimeMS * float64(time.Millisecond))
		for clock, was := range before {
			lost := was - now[clock]
			t.Logf("to %s: %s stands at %v, %v less than before; the pod stood still for %v", to.Name, clock, now[clock], lost, stood)
			// CRIU reads and sets them somewhere within the frozen time.
			if lost <= 0 || lost > took {
				t.Errorf("to %s: %s lost %v in a move that took %v", to.Name, clock, lost, took)
			}
		}
		before = now
	}
}

// needTimeNamespaces skips a test where a process has the machine's clocks and no others, wherever CRIU makes it: a kernel before Linux 5.6, or one
// without CONFIG_TIME_NS.
func needTimeNamespaces(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/timens_offsets"); err != nil {
		t.Skip("this kernel has no time namespaces: ", err)
	}
}

// clockOffsets are by how much the clocks of a node's only process of a name differ from the machine's.
func clockOffsets(t *testing.T, n *lab.Node, name string) map[string]time.Duration {
	t.Helper()
	pids, err := census.PIDs(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.TrimSpace(string(comm)) != name {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", pid))
		if err != nil {
			t.Fatal(err)
		}
		offsets := map[string]time.Duration{}
		for line := range strings.Lines(string(text)) {
			var clock string
			var seconds, nanoseconds int64
			if _, err := fmt.Sscan(line, &clock, &seconds, &nanoseconds); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			offsets[clock] = time.Duration(seconds)*time.Second + time.Duration(nanoseconds)
		}
		return offsets
	}
	t.Fatalf("node %s has no process %s", n.Name, name)
	return nil
}
