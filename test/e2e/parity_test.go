package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/test/lab"
)

// With no migration in sight the shim behaves as runc's: the same is done under both handlers, and seen.
func TestAsAPlainRuntimeItIsRunc(t *testing.T) {
	n, _ := nodes(t)
	seen := map[string]map[string]string{}
	for _, handler := range []string{"runc", "godwit"} {
		seen[handler] = map[string]string{}
		for _, behaviour := range behaviours {
			o := &observer{t: t, n: n, handler: handler, seen: seen[handler], name: behaviour.name}
			behaviour.observe(o)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(seen["runc"])) {
		if seen["runc"][what] != seen["godwit"][what] {
			t.Errorf("%s: runc %q, godwit %q", what, seen["runc"][what], seen["godwit"][what])
		} else {
			t.Logf("%s: %q", what, seen["runc"][what])
		}
	}
}

// observer runs pods under one handler and notes what it sees.
type observer struct {
	t       *testing.T
	n       *lab.Node
	handler string
	name    string
	seen    map[string]string
}

func (o *observer) note(what string, value any) {
	o.seen[o.name+", "+what] = fmt.Sprint(value)
}

// run starts a pod with one container, a shell.
func (o *observer) run(script string, change ...func(*lab.ContainerSpec)) (pod *lab.Pod, id string) {
	o.t.Helper()
	spec := lab.ContainerSpec{Name: "c", Image: image(o.t, "redis", "redis-server"), Command: []string{"sh", "-c", script}}
	for _, c := range change {
		c(&spec)
	}
	p := runPod(o.t, o.n, lab.PodSpec{Name: "plain", Handler: o.handler, Containers: []lab.ContainerSpec{spec}})
	return p.Pod, p.Containers[0].ID
}

// ready waits until a container's script has made the file /ready.
func (o *observer) ready(id string) {
	o.t.Helper()
	ctx := within(o.t, 20*time.Second)
	for {
		if _, code := execIn(o.t, o.n, id, "test", "-e", "/ready"); code == 0 {
			return
		}
		if ctx.Err() != nil {
			o.t.Fatal("the container's script does not get on")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (o *observer) exit(id string) {
	o.t.Helper()
	s := awaitExit(o.t, o.n, id)
	o.note("exit code", s.ExitCode)
	o.note("reason", s.Reason)
}

const loop = "while :; do sleep 0.05; done"

var behaviours = []struct {
	name    string
	observe func(*observer)
}{
	{"a container that ends", func(o *observer) {
		p, id := o.run("echo to stdout; echo to stderr >&2; exit 7")
		o.exit(id)
		b, err := os.ReadFile(o.n.Path(p.Containers[0].Log))
		if err != nil {
			o.t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(b)) {
			_, after, _ := strings.Cut(line, " ")
			lines = append(lines, after)
		}
		slices.Sort(lines)
		o.note("log", lines)
	}},
	{"exec", func(o *observer) {
		_, id := o.run(loop)
		out, code := execIn(o.t, o.n, id, "sh", "-c", "echo out; echo err >&2; cat /proc/1/comm; pwd; exit 3")
		o.note("output", out)
		o.note("exit code", code)
		_, err := cri(o.t, o.n).ExecSync(within(o.t, 10*time.Second), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/no/such/thing"}, Timeout: 5})
		o.note("of what does not exist is an error", err != nil)
		_, err = cri(o.t, o.n).ExecSync(within(o.t, 20*time.Second), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "30"}, Timeout: 1})
		o.note("that takes too long is an error", err != nil)
	}},
	{"another user", func(o *observer) {
		uid := int64(1234)
		_, id := o.run(loop, func(c *lab.ContainerSpec) { c.UID, c.WorkDir, c.Env = &uid, "/tmp", []string{"X=y"} })
		out, _ := execIn(o.t, o.n, id, "sh", "-c", "id -u; pwd; echo $X; grep Cap /proc/self/status; cat /proc/self/oom_score_adj")
		o.note("is", out)
	}},
	{"a command that does not exist", func(o *observer) {
		_, err := o.n.RunPod(within(o.t, 30*time.Second), lab.PodSpec{Name: "plain", Handler: o.handler, Containers: []lab.ContainerSpec{{
			Name: "c", Image: image(o.t, "redis", "redis-server"), Command: []string{"/no/such/thing"},
		}}})
		o.note("is an error", err != nil && strings.Contains(err.Error(), "no such file or directory"))
	}},
	{"stop, heeded", func(o *observer) {
		_, id := o.run("trap 'exit 5' TERM; : >/ready; " + loop)
		o.ready(id)
		o.stop(id, 10)
	}},
	{"stop, not heeded", func(o *observer) {
		_, id := o.run("trap '' TERM; : >/ready; " + loop)
		o.ready(id)
		o.stop(id, 1)
	}},
	{"out of memory", func(o *observer) {
		// It lives on for a moment: containerd's shim does not tell of it once the cgroup is gone (pkg/oom/v1, process).
		_, id := o.run("head -c 200000000 /dev/zero | tail >/dev/null; code=$?; sleep 2; exit $code", func(c *lab.ContainerSpec) { c.Memory = 32 << 20 })
		o.exit(id)
	}},
	{"statistics", func(o *observer) {
		_, id := o.run(loop)
		s := stats(o.t, o.n, id)
		o.note("have memory", s.GetMemory().GetWorkingSetBytes().GetValue() > 0)
		o.note("have CPU", s.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 0)
		o.note("have a writable layer", s.GetWritableLayer() != nil)
	}},
	{"pause and resume", func(o *observer) {
		_, id := o.run(loop)
		o.ctr("tasks", "pause", id)
		o.note("paused", o.taskState(id))
		o.ctr("tasks", "resume", id)
		o.note("resumed", o.taskState(id))
	}},
	{"an update", func(o *observer) {
		_, id := o.run(loop, func(c *lab.ContainerSpec) { c.Memory, c.MilliCPU = 64<<20, 500 })
		_, err := cri(o.t, o.n).UpdateContainerResources(within(o.t, 10*time.Second), &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuPeriod: 100_000, CpuQuota: 25_000},
		})
		o.note("error", err)
		out, _ := execIn(o.t, o.n, id, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null")
		o.note("limits", out)
	}},
	{"processes", func(o *observer) {
		_, id := o.run("sleep 1000 & sleep 1000 & : >/ready; wait")
		o.ready(id)
		o.note("listed", len(strings.Split(strings.TrimSpace(o.ctr("tasks", "ps", id)), "\n")))
	}},
	{"containerd dies", func(o *observer) {
		p, id := o.run("trap 'exit 5' TERM; " + loop)
		if !o.n.KillContainerd() {
			o.t.Fatal("containerd does not run")
		}
		awaitContainerd(o.t, o.n)
		o.note("container", status(o.t, o.n, id).State)
		out, code := execIn(o.t, o.n, id, "echo", "still here")
		o.note("exec", fmt.Sprint(out, code))
		o.stop(id, 10)
		if err := o.n.RemovePod(within(o.t, 20*time.Second), p.ID); err != nil {
			o.t.Error(err)
		}
	}},
	{"removed while it runs", func(o *observer) {
		p, id := o.run(loop)
		o.note("error", o.n.RemovePod(within(o.t, 20*time.Second), p.ID))
		o.note("task", o.taskState(id))
	}},
}

func (o *observer) stop(id string, timeout int64) {
	o.t.Helper()
	_, err := cri(o.t, o.n).StopContainer(within(o.t, 30*time.Second), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: timeout})
	o.note("error", err)
	o.exit(id)
}

func (o *observer) ctr(args ...string) string {
	o.t.Helper()
	out, err := o.n.Exec(within(o.t, 20*time.Second), append([]string{"ctr", "-n", "k8s.io"}, args...)...)
	if err != nil {
		o.t.Fatal(err)
	}
	return string(out)
}

// taskState is containerd's word for a task, empty if there is none.
func (o *observer) taskState(id string) string {
	o.t.Helper()
	for line := range strings.Lines(o.ctr("tasks", "list")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

// awaitContainerd waits until a containerd that was killed serves again.
func awaitContainerd(t *testing.T, n *lab.Node) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	for {
		s, err := cri(t, n).Status(ctx, &runtimeapi.StatusRequest{})
		if err == nil && len(s.GetStatus().GetConditions()) > 0 && s.Status.Conditions[0].Status {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("containerd does not come back: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
