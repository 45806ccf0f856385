package e2e

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/workload"
)

// moveTimeout is what a move of a test's small pod may take on a loaded machine.
const moveTimeout = 60 * time.Second

// pod is a pod of a test, wherever it is.
type pod struct {
	t    *testing.T
	name string
	node *lab.Node
	*lab.Pod
}

// runPod runs a pod, and removes it at the end of the test wherever it is then.
func runPod(t *testing.T, n *lab.Node, spec lab.PodSpec) *pod {
	t.Helper()
	removePod(context.Background(), t, spec.Name) // what a killed run left
	made, err := n.RunPod(within(t, time.Minute), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removePod(context.Background(), t, spec.Name) })
	return &pod{t: t, name: spec.Name, node: n, Pod: made}
}

// removePod removes all pods of that name from all nodes.
func removePod(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, pace.Stretch(30*time.Second))
	defer cancel()
	for _, n := range the.lab.Nodes() {
		if !n.Alive() {
			continue
		}
		pods, err := n.Pods(ctx)
		if err != nil {
			t.Error(err)
		}
		// kubelet removes the logs of a pod that is gone.
		_ = os.RemoveAll(n.Path("/var/log/pods/" + name))
		for _, p := range pods {
			if p.Name != name {
				continue
			}
			if err := n.RemovePod(ctx, p.ID); err != nil {
				t.Error(err)
			}
		}
	}
}

// program runs one program of package workload as a pod.
func program(t *testing.T, n *lab.Node, args ...string) *pod {
	t.Helper()
	return runPod(t, n, lab.PodSpec{Name: args[0], Containers: []lab.ContainerSpec{container(t, args...)}})
}

// container is a container with one program of package workload.
func container(t *testing.T, args ...string) lab.ContainerSpec {
	t.Helper()
	args = append([]string{"/" + args[0]}, args[1:]...)
	return lab.ContainerSpec{Name: filepath.Base(args[0]), Image: workloads(t), Command: args}
}

// at is where a port of the pod is now.
func (p *pod) at(port string) string { return net.JoinHostPort(p.IP, port) }

// check asks a program of the pod whether it is right.
func (p *pod) check(port string) map[string]string {
	p.t.Helper()
	figures, err := workload.Check(within(p.t, 30*time.Second), p.at(port))
	if err != nil {
		p.t.Fatalf("on node %s: %v", p.node.Name, err)
	}
	return figures
}

// ask asks a program of the pod something else.
func (p *pod) ask(port, question string) string {
	p.t.Helper()
	answer, err := workload.Ask(within(p.t, 30*time.Second), p.at(port), question)
	if err != nil {
		p.t.Fatalf("on node %s: %v", p.node.Name, err)
	}
	return answer
}

// moveTo moves the pod, and fails the test unless it is there then and runs.
func (p *pod) moveTo(to *lab.Node, flags ...string) *move.Result {
	p.t.Helper()
	result, err := move.Do(within(p.t, moveTimeout), p.node, p.name, to.Name, flags...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.moved(to, result)
	return result
}

// moved notes where the pod is after a move that succeeded.
func (p *pod) moved(to *lab.Node, result *move.Result) {
	p.t.Helper()
	now, err := to.FindPod(within(p.t, 10*time.Second), p.name)
	if err != nil {
		p.t.Fatal(err)
	}
	if now.ID != result.Destination.Sandbox || now.State != "ready" {
		p.t.Fatalf("the pod on %s is %s (%s), moved was %s", to.Name, now.ID, now.State, result.Destination.Sandbox)
	}
	for _, c := range now.Containers {
		if c.State != "running" {
			p.t.Fatalf("container %s is %s after the move", c.Name, c.State)
		}
	}
	if old, err := p.node.FindPod(within(p.t, 10*time.Second), p.name); err == nil {
		p.t.Errorf("the pod is on %s too, %s", p.node.Name, old.State)
	}
	p.byEngine(result)
	p.node, p.Pod = to, now
	if result.Downtime == nil { // the destination's answer to the commit was lost
		result.Downtime = new(move.Downtime)
	}
	p.t.Logf("to %s: %.0f ms frozen (%.0f freeze, %.0f dump, %.0f pages, %.0f files; %.0f cutover, %.0f seal, %.0f restore, %.0f commit, %.0f resume), %d rounds, %.1f MiB memory, %.1f MiB sent, %.1f MiB files, %.1f s in all",
		to.Name, result.DowntimeMS, result.Downtime.Freeze, result.Downtime.Dump, result.Downtime.Pages, result.Downtime.Files,
		result.Downtime.CutOver, result.Downtime.Seal, result.Downtime.Restore, result.Downtime.Commit, result.Downtime.Resume,
		len(result.Rounds), mib(result.MemoryBytes), mib(result.WireBytesSent), mib(result.FileBytesSent), result.TotalMS/1000)
}

// engines are the names that a result has for what move.EnvTracker can say.
var engines = map[string]string{"write-protect": "WriteProtect", "soft-dirty": "SoftDirty", "none": "None"}

// byEngine sees that a live move was made by the engine that the whole run is for.
func (p *pod) byEngine(result *move.Result) {
	p.t.Helper()
	if want := engines[os.Getenv(move.EnvTracker)]; want != "" && result.Mode == "live" && result.Engine != want {
		p.t.Errorf("moved by engine %s, this run is for %s", result.Engine, want)
	}
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// rootfs is how the host reaches the root file system of a container.
func (p *pod) rootfs(container string) string {
	p.t.Helper()
	c := p.Container(container)
	if c == nil {
		p.t.Fatalf("pod %s has no container %s", p.name, container)
	}
	return p.node.Path("/run/containerd/io.containerd.runtime.v2.task/k8s.io/" + c.ID + "/rootfs")
}

// log is the path on the host of a container's log.
func (p *pod) log(container string) string {
	p.t.Helper()
	c := p.Container(container)
	if c == nil {
		p.t.Fatalf("pod %s has no container %s", p.name, container)
	}
	return p.node.Path(c.Log)
}

// exec runs a command in a container, as kubectl exec would, and returns what it wrote.
func (p *pod) exec(container string, args ...string) string {
	p.t.Helper()
	out, code := execIn(p.t, p.node, p.Container(container).ID, args...)
	if code != 0 {
		p.t.Fatalf("exec %s in %s: exit code %d: %s", strings.Join(args, " "), container, code, out)
	}
	return out
}
