package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// What a failed test tells of the nodes, so that its output alone explains it.

// nodeServices are what a node's logs are of, those of a Kubernetes where it has them.
var nodeServices = []string{"godwit-node", "containerd", "kubelet", "storage"}

var explained = map[*testing.T]bool{}

// explain prints what the nodes' services wrote during the test, if it fails.
func explain(t *testing.T, nodes ...*lab.Node) {
	t.Helper()
	if explained[t] {
		return
	}
	explained[t] = true
	written := logsFromNow(nodes)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(written())
		}
	})
}

// logsFromNow returns a function that gives the ends of what the nodes' services have written since.
func logsFromNow(nodes []*lab.Node) func() string {
	from := map[string]int64{}
	for _, n := range nodes {
		for _, service := range nodeServices {
			if info, err := os.Stat(n.Log(service)); err == nil {
				from[n.Log(service)] = info.Size()
			}
		}
	}
	return func() string {
		var b strings.Builder
		for _, n := range nodes {
			for _, service := range nodeServices {
				if offset, ok := from[n.Log(service)]; ok {
					fmt.Fprintf(&b, "node %s, %s:\n%s\n", n.Name, service, logSince(n.Log(service), offset))
				}
			}
		}
		return b.String()
	}
}

// logSince is the end of what was written to a log after an offset, without what containerd always says.
func logSince(path string, offset int64) string {
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) < offset {
		return fmt.Sprint(err)
	}
	var lines []string
	for line := range strings.Lines(string(b[offset:])) {
		if strings.Contains(path, "containerd") && (strings.Contains(line, "level=info") || strings.Contains(line, "level=debug")) && !strings.Contains(line, "migration") {
			continue
		}
		if len(line) > 600 {
			line = line[:600] + "...\n"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines[max(0, len(lines)-30):], "")
}

// clusterDeadline is how long a test on the cluster may take between the beginnings and ends of its subtests: several times what
// the longest does on a busy machine. Each of its steps has a deadline of its own.
const clusterDeadline = 15 * time.Minute

// explain prints what the cluster has and what the nodes' services wrote during the test, if it fails, or if it has not ended
// when its time is over: then all tests end.
func (k *kube) explain() {
	k.t.Helper()
	if explained[k.t] {
		return
	}
	explained[k.t] = true
	t, written := k.t, logsFromNow([]*lab.Node{k.a, k.b})
	tell := func() string { return k.objects() + written() }
	begin := func() {
		name, limit := t.Name(), pace.Stretch(clusterDeadline)
		theCluster.late = time.AfterFunc(limit, func() {
			fmt.Fprintln(os.Stderr, tell())
			panic(fmt.Sprintf("%s does not get on for %v", name, limit))
		})
	}
	if theCluster.late != nil {
		theCluster.late.Stop() // of the test of which this is a part
	}
	begin()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(tell())
		}
		if theCluster.late.Stop(); strings.Contains(t.Name(), "/") {
			begin()
		}
	})
}

// objects are those of the cluster that tell what becomes of pods.
func (k *kube) objects() string {
	ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(20*time.Second))
	defer cancel()
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "nodes,pods,podmigrations,volumeattachments", "-o=wide"},
		{"get", "podmigrations", "-o=jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}"},
		{"get", "events", "--sort-by=.metadata.creationTimestamp"},
	} {
		out, err := k.Kubectl(ctx, "", args...)
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		fmt.Fprintf(&b, "kubectl %s:\n%s\n", strings.Join(args[:2], " "), strings.Join(lines[max(0, len(lines)-40):], "\n"))
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}
