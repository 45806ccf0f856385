package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/test/pace"
)

// testDeadline is how long a test of a cluster may take: three times what the longest does on a busy machine. Each of its steps has
// a deadline of its own.
const testDeadline = 15 * time.Minute

// explained has the names of the tests that explain themselves already.
var explained sync.Map

// explain prints what a cluster has and the ends of its machines' logs, if the test fails, or if it has not ended when its time
// is over: then all tests end.
func explain(t *testing.T, l *Lab) {
	t.Helper()
	if _, again := explained.LoadOrStore(t.Name(), true); again {
		return
	}
	c := l.Kubernetes()
	limit := pace.Stretch(testDeadline)
	over := time.AfterFunc(limit, func() {
		fmt.Fprintln(os.Stderr, c.tell())
		panic(fmt.Sprintf("%s has not ended within %v", t.Name(), limit))
	})
	t.Cleanup(func() {
		over.Stop()
		explained.Delete(t.Name())
		if t.Failed() {
			t.Log(c.tell())
		}
	})
}

// tell is how a cluster stands.
func (c *Cluster) tell() string { return c.objects() + c.lab.allLogTails() }

// objects are those of the cluster that tell what becomes of pods.
func (c *Cluster) objects() string {
	ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(20*time.Second))
	defer cancel()
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "nodes,deployments,daemonsets,jobs,pods", "--all-namespaces", "-o=wide"},
		{"get", "podmigrations", "-o=jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}"},
		{"get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"},
		{"logs", "--namespace=" + installedIn, "-l=app.kubernetes.io/name=godwit", "--all-containers", "--prefix", "--tail=20"},
	} {
		out, err := c.Kubectl(ctx, "", args...)
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		fmt.Fprintf(&b, "kubectl %s:\n%s\n", strings.Join(args[:2], " "), strings.Join(lines[max(0, len(lines)-40):], "\n"))
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

// allLogTails are the ends of the logs of all machines.
func (l *Lab) allLogTails() string {
	names, err := l.knownNodes()
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "machine %s:%s\n", name, l.logTails(name))
	}
	return b.String()
}
