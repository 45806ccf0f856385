package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/workload"
)

// idle is what may differ between two counts though nothing was left behind.
var idle = census.Idle()

// settleTimeout is how long a node may take to be as it was.
const settleTimeout = 20 * time.Second

// baseline counts what both nodes hold.
func baseline(t *testing.T, nodes ...*lab.Node) []census.Census {
	t.Helper()
	var all []census.Census
	for _, n := range nodes {
		c, err := census.Take(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// noMore fails the test if a node still holds more than before after a while.
func noMore(t *testing.T, before []census.Census, slack census.Slack, nodes ...*lab.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(settleTimeout))
	defer cancel()
	for i, n := range nodes {
		more, err := census.Settle(ctx, n, before[i], slack)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range more {
			t.Errorf("node %s holds more: %v%s", n.Name, d, whose(n, d.What))
		}
	}
}

// whose are the command lines of the processes that a difference counts.
func whose(n *lab.Node, what string) string {
	name, ok := strings.CutPrefix(what, "process ")
	pids, err := census.PIDs(n)
	if !ok || err != nil {
		return ""
	}
	var b strings.Builder
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if strings.TrimSpace(string(comm)) == name {
			fmt.Fprintf(&b, "\n%d: %q", pid, args)
		}
	}
	return b.String()
}

func TestTwentyMovesInARowLeaveNothingBehind(t *testing.T) {
	const moves = 20
	a, b := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "traveller", Containers: []lab.ContainerSpec{
		container(t, workload.SharedPair, workload.Port, "8"),
		container(t, workload.Filer, "7001", "inotify"),
		container(t, workload.Storm, "7002"),
	}})
	verify := func() {
		t.Helper()
		for _, port := range []string{workload.Port, "7001", "7002"} {
			p.check(port)
		}
	}
	verify()
	var before []census.Census
	for i := 1; i <= moves; i++ {
		p.moveTo(map[*lab.Node]*lab.Node{a: b, b: a}[p.node])
		verify()
		if i == 2 { // each node has been a source and a destination
			before = settled(t, a, b)
		}
	}
	noMore(t, before, idle, a, b)
}

// settled counts when two counts in a row agree.
func settled(t *testing.T, nodes ...*lab.Node) []census.Census {
	t.Helper()
	deadline := time.Now().Add(pace.Stretch(settleTimeout))
	for {
		first := baseline(t, nodes...)
		time.Sleep(500 * time.Millisecond)
		second := baseline(t, nodes...)
		same := true
		for i := range nodes {
			same = same && len(first[i].More(second[i], nil)) == 0 && len(second[i].More(first[i], nil)) == 0
		}
		if same || time.Now().After(deadline) {
			return second
		}
	}
}
