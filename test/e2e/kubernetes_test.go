package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/pace"
)

// A pod that kubelet makes on the other node. What a cluster's controller does about a migration, the tests do by kubectl.

// envKubernetes set to 1 says that tests may take the time to start a cluster.
const envKubernetes = "GODWIT_KUBERNETES"

// the cluster of these tests, brought up by the first that asks.
var theCluster struct {
	once  sync.Once
	lab   *lab.Lab
	image string
	err   error
	late  *time.Timer // ends the tests if the one that runs does not get on; see kube.explain
}

func bringUpCluster(ctx context.Context) error {
	if err := probe(); err != nil {
		return err
	}
	dir := labDir() + "-kubernetes"
	if !keepLab() {
		if err := lab.Down(ctx, dir); err != nil {
			return err
		}
	}
	l, err := lab.Up(ctx, lab.Options{Dir: dir, Kubernetes: true, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	theCluster.lab = l
	theCluster.image, err = l.AddImage(ctx, lab.ImageSpec{Name: "redis", Debian: []string{"redis-server"}})
	return err
}

// kube is a cluster in a test.
type kube struct {
	t    *testing.T
	a, b *lab.Node
	*lab.Cluster
}

func newKube(t *testing.T) *kube {
	t.Helper()
	if os.Getenv(envKubernetes) != "1" {
		t.Skipf("starts a cluster, with %s=1 only", envKubernetes)
	}
	theCluster.once.Do(func() { theCluster.err = bringUpCluster(context.Background()) })
	if errors.Is(theCluster.err, errUnavailable) {
		t.Skip(theCluster.err)
	}
	if theCluster.err != nil {
		t.Fatal(theCluster.err)
	}
	l := theCluster.lab
	k := &kube{t: t, a: l.Node("a"), b: l.Node("b"), Cluster: l.Kubernetes()}
	k.explain()
	return k
}

// kubectl fails the test with what kubectl says.
func (k *kube) kubectl(stdin string, args ...string) string {
	k.t.Helper()
	out, err := k.Kubectl(within(k.t, 3*time.Minute), stdin, args...)
	if err != nil {
		k.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// pod is a pod of two containers on a node, with the annotation of a migration if it comes with one.
func (k *kube) pod(name string, node *lab.Node, image, migration string) string {
	c := counter{app: "cart", node: node.Name, hostname: "cart", image: image}
	if migration != "" {
		c.metadata = "annotations: {godwit.dev/migration: " + migration + "}"
	}
	return c.pod(name)
}

// run makes a pod on node a and waits until it is ready; it is gone when the test ends, as all pods are.
func (k *kube) run(name, image string) {
	k.t.Helper()
	k.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(3*time.Minute))
		defer cancel()
		if _, err := k.Kubectl(ctx, "", "delete", "pod", "--all", "--force", "--grace-period=0"); err != nil {
			k.t.Error(err)
		}
	})
	k.kubectl(k.pod(name, k.a, image, ""), "apply", "-f", "-")
	k.ready(name)
}

func (k *kube) ready(name string) {
	k.t.Helper()
	k.kubectl("", "wait", "--for=condition=Ready", "pod", name, "--timeout=170s")
}

// write begins to write to the redis of a pod.
func (k *kube) write(name string, keys uint32) *writer {
	k.t.Helper()
	ip := k.kubectl("", "get", "pod", name, "-o=jsonpath={.status.podIP}")
	w := &writer{t: k.t, redis: load.NewRedis(net.JoinHostPort(ip, redisPort), keys), begun: time.Now()}
	if err := w.redis.Fill(within(k.t, 3*time.Minute)); err != nil {
		k.t.Fatal(err)
	}
	w.write()
	k.t.Cleanup(func() { w.stop() })
	return w
}

// migration is one under way, as its caller on the node's socket sees it.
type migration struct {
	t      *testing.T
	client *ttrpc.Client
	stream nodev1.Node_MigrateClient
	id     string
	events []string
	queue  chan *nodev1.Event // closed when the stream has ended
	ended  error              // how; set before that
}

// read takes the events off the stream as they come: one that nobody reads for a while breaks.
func (m *migration) read() {
	defer close(m.queue)
	for {
		e, err := m.stream.Recv()
		if err != nil {
			m.ended = err
			return
		}
		if m.queue <- e; e.Kind == "ended" {
			m.ended = io.EOF
			return
		}
	}
}

// migrate begins to move a pod from node a to node b. Its orchestrator is the test.
func (k *kube) migrate(pod string, bandwidth uint64) *migration {
	k.t.Helper()
	conn, err := net.Dial("unix", k.a.Path(nodev1.Socket))
	if err != nil {
		k.t.Fatal(err)
	}
	m := &migration{t: k.t, client: ttrpc.NewClient(conn), queue: make(chan *nodev1.Event, 1<<16)}
	k.t.Cleanup(func() { m.client.Close() })
	m.stream, err = nodev1.NewNodeClient(m.client).Migrate(within(k.t, 2*moveTimeout), &nodev1.MigrateRequest{
		Pod: "default/" + pod, To: k.b.Name, Kubelet: true, Bandwidth: bandwidth, Tracker: os.Getenv("GODWIT_TRACKER"),
	})
	if err != nil {
		k.t.Fatal(err)
	}
	go m.read() // until the client is closed
	m.await("place")
	return m
}

// await returns the next event of that kind.
func (m *migration) await(kind string) *nodev1.Event {
	m.t.Helper()
	for {
		e, ok := <-m.queue
		if !ok {
			m.t.Fatalf("the migration ended without the event %s (%v): %s", kind, m.ended, strings.Join(m.events, "; "))
		}
		m.id = e.Migration
		if e.Kind == kind {
			return e
		}
		if e.Kind != "progress" {
			m.events = append(m.events, e.Kind+" "+e.Message)
		}
	}
}

// abort breaks the migration off, and returns when both nodes are clean.
func (m *migration) abort() {
	m.t.Helper()
	if _, err := nodev1.NewNodeClient(m.client).Abort(within(m.t, 3*time.Minute), &nodev1.AbortRequest{Migration: m.id, Reason: "its pod was deleted"}); err != nil {
		m.t.Fatal(err)
	}
}

// files are those that the pod has written, by name; each must be what it was before and more.
func (k *kube) files(pod string) map[string]int {
	k.t.Helper()
	counts := map[string]int{}
	for _, file := range tickFiles {
		lines := strings.Fields(k.kubectl("", "exec", pod, "-c=ticks", "--", "cat", file))
		for i, line := range lines {
			if line != strconv.Itoa(i+1) {
				k.t.Errorf("line %d of %s in pod %s is %q", i+1, file, pod, line)
				break
			}
		}
		counts[file] = len(lines)
	}
	// It is the same volume in both containers.
	if got := len(strings.Fields(k.kubectl("", "exec", pod, "-c=redis", "--", "cat", "/work/ticks"))); got < counts["/data/ticks"] {
		k.t.Errorf("the other container of pod %s sees %d lines, not %d", pod, got, counts["/data/ticks"])
	}
	return counts
}

// grown waits until every file has more than it had before.
func (k *kube) grown(pod string, before map[string]int) {
	k.t.Helper()
	k.until("the files of pod "+pod+" growing", func() bool {
		after := k.files(pod)
		return slices.IndexFunc(tickFiles, func(f string) bool { return after[f] <= before[f] }) < 0
	})
}

// runs says whether a program runs on a node.
func (k *kube) runs(n *lab.Node, comm string) bool {
	k.t.Helper()
	pids, err := census.PIDs(n)
	if err != nil {
		k.t.Fatal(err)
	}
	return slices.ContainsFunc(pids, func(pid int) bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return strings.HasPrefix(string(name), comm)
	})
}

// until waits for what no event tells.
func (k *kube) until(what string, is func() bool) {
	k.t.Helper()
	ctx := within(k.t, 3*time.Minute)
	for !is() {
		select {
		case <-ctx.Done():
			k.t.Fatalf("it never came: %s", what)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// nothingLeft sees that neither node has anything of a migration.
func (k *kube) nothingLeft() {
	k.t.Helper()
	k.until("both nodes without anything of the migration", func() bool { return len(k.left()) == 0 })
}

// left is what there is of migrations on the nodes.
func (k *kube) left() []string {
	var left []string
	for _, n := range []*lab.Node{k.a, k.b} {
		for _, dir := range []string{"migrations", "store", "images", "spool"} {
			entries, _ := os.ReadDir(n.Path("/run/godwit/" + dir))
			for _, e := range entries {
				left = append(left, n.Name+": "+dir+"/"+e.Name())
			}
		}
		mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", n.PID()))
		for line := range strings.Lines(string(mounts)) {
			if strings.HasPrefix(line, "godwit ") || strings.Contains(line, "/run/godwit/store/") {
				left = append(left, n.Name+": "+line)
			}
		}
	}
	return left
}

func TestKubernetesPodMoves(t *testing.T) {
	k := newKube(t)
	k.run("cart", theCluster.image)
	w := k.write("cart", sceneKeys)
	w.awaitWrites(writeRate / 2)
	before := k.files("cart")

	m := k.migrate("cart", 0)
	k.kubectl(k.pod("cart-moved", k.b, theCluster.image, m.id), "apply", "-f", "-")
	w.redis.AlsoAt(m.await("created").Destination.PodIp + ":" + redisPort)
	m.await("committed")
	k.ready("cart-moved")

	// kubelet sees that the source's containers have failed, and starts them again; it is refused.
	k.until("kubelet refused to start the source again", func() bool {
		return strings.Contains(k.kubectl("", "get", "events", "-o=jsonpath={.items[*].message}"), "the pod has moved to node b")
	})
	if k.runs(k.a, "redis-server") {
		t.Error("the source runs again")
	}
	k.kubectl("", "delete", "pod", "cart", "--force", "--grace-period=0")
	ended := m.await("ended").Result
	if !ended.GetSucceeded() {
		t.Fatalf("ended with %s", ended.GetError())
	}
	t.Logf("moved: %d ms frozen, restore %d ms", ended.GetDowntime().GetMeasuredUs()/1000, ended.GetDowntime().GetRestoreUs()/1000)

	w.awaitWrites(writeRate / 2)
	w.verify()
	k.grown("cart-moved", before)
	if got := k.kubectl("", "get", "pod", "cart-moved", "-o=jsonpath={.status.containerStatuses[*].restartCount}"); got != "0 0" {
		t.Errorf("kubelet restarted the moved pod's containers: %s", got)
	}
	k.nothingLeft()
}

func TestKubernetesPodStaysWhenTheDestinationIsDeleted(t *testing.T) {
	k := newKube(t)
	k.run("cart", theCluster.image)
	w := k.write("cart", sceneKeys)
	w.awaitWrites(writeRate / 2)
	before := k.files("cart")

	m := k.migrate("cart", 4<<20)
	k.kubectl(k.pod("cart-moved", k.b, theCluster.image, m.id), "apply", "-f", "-")
	m.await("created")
	k.kubectl("", "delete", "pod", "cart-moved", "--force", "--grace-period=0")
	// kubelet does not notice before the start that it waits for has ended: whoever watches the pod breaks the migration off.
	m.abort()
	ended := m.await("ended").Result
	if ended.GetSucceeded() || ended.GetError() == "" {
		t.Fatalf("ended with %v", ended)
	}
	t.Logf("ended with %s", ended.GetError())

	w.awaitWrites(writeRate / 2)
	w.verify()
	k.grown("cart", before)
	if got := k.kubectl("", "get", "pod", "cart", "-o=jsonpath={.status.containerStatuses[*].restartCount}"); got != "0 0" {
		t.Errorf("kubelet restarted the source's containers: %s", got)
	}
	k.nothingLeft()
	// kubelet stops the sandbox at once, and removes it within a minute.
	k.until("the destination's node without a sandbox that is ready", func() bool {
		pods, err := k.b.Pods(within(t, time.Minute))
		return err == nil && !slices.ContainsFunc(pods, func(p lab.Pod) bool { return p.Name == "cart-moved" && p.State == "ready" })
	})
	if k.runs(k.b, "redis-server") {
		t.Error("the destination runs")
	}
}
