package e2e

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// A pod that was moved is an ordinary pod: what kubelet does with pods works.
func TestAMovedPodIsAnOrdinaryPod(t *testing.T) {
	a, b := nodes(t)
	shell := image(t, "redis", "redis-server")
	before := settled(t, a, b)
	p := runPod(t, a, lab.PodSpec{Name: "ordinary", Containers: []lab.ContainerSpec{
		{Name: "shell", Image: shell, Command: []string{"sh", "-c", "trap 'exit 5' TERM; i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done"}},
		container(t, workload.Ticker, workload.Port),
	}})
	p.moveTo(b)

	if out := p.exec("shell", "sh", "-c", "echo $((6*7)); cat /proc/1/comm"); out != "42\nsh\n" {
		t.Errorf("exec says %q", out)
	}
	if _, code := execIn(t, b, p.Container("shell").ID, "sh", "-c", "exit 9"); code != 9 {
		t.Errorf("exec ends with %d", code)
	}
	grows(t, p.log("shell"))
	if s := stats(t, b, p.Container("ticker").ID); s.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		t.Error("no statistics of memory")
	}

	// A container ends, with its own exit code, and is started again in the same sandbox.
	id := p.Container("shell").ID
	if _, err := cri(t, b).StopContainer(within(t, 20*time.Second), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 5}); err != nil {
		t.Fatal(err)
	}
	if s := awaitExit(t, b, id); s.ExitCode != 5 {
		t.Errorf("the shell ended with %d (%s)", s.ExitCode, s.Reason)
	}
	again := restart(t, b, p.ID, id)
	if out, code := execIn(t, b, again, "cat", "/proc/1/comm"); code != 0 || out != "sh\n" {
		t.Errorf("the restarted container says %q, exit code %d", out, code)
	}
	p.check(workload.Port) // the other one never noticed

	// And one that dies is seen to die.
	id = p.Container("ticker").ID
	if _, err := cri(t, b).StopContainer(within(t, 20*time.Second), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 0}); err != nil {
		t.Fatal(err)
	}
	if s := awaitExit(t, b, id); s.ExitCode != 137 {
		t.Errorf("the ticker was killed and ended with %d", s.ExitCode)
	}
	removePod(t.Context(), t, p.name)
	noMore(t, before, idle, a, b)
}

// grows waits until a file has grown.
func grows(t *testing.T, path string) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	for from := size(); size() == from; time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("%s does not grow", path)
		}
	}
}

func stats(t *testing.T, n *lab.Node, id string) *runtimeapi.ContainerStats {
	t.Helper()
	r, err := cri(t, n).ContainerStats(within(t, 10*time.Second), &runtimeapi.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Stats
}

// restart makes a container again in its sandbox, as kubelet does: from the pod's own specification, which knows nothing of
// a migration.
func restart(t *testing.T, n *lab.Node, sandbox, id string) (again string) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	s, err := cri(t, n).ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Config *runtimeapi.ContainerConfig `json:"config"`
	}
	if err := json.Unmarshal([]byte(s.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	ss, err := cri(t, n).PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var pod struct {
		Config *runtimeapi.PodSandboxConfig `json:"config"`
	}
	if err := json.Unmarshal([]byte(ss.Info["info"]), &pod); err != nil {
		t.Fatal(err)
	}
	info.Config.Metadata.Attempt++
	info.Config.LogPath = strings.TrimSuffix(info.Config.LogPath, "0.log") + strconv.Itoa(int(info.Config.Metadata.Attempt)) + ".log"
	for name := range info.Config.Annotations {
		if strings.HasPrefix(name, "godwit.dev/") {
			delete(info.Config.Annotations, name)
		}
	}
	made, err := cri(t, n).CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: info.Config, SandboxConfig: pod.Config})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cri(t, n).StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return made.ContainerId
}
