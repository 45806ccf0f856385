package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/lab/nodeinit"
)

// envUp makes the test binary bring up the lab of that directory instead of testing: a process that can be killed at it.
const (
	envUp           = "GODWIT_LAB_TEST_UP"
	envUpBin        = "GODWIT_LAB_TEST_UP_BIN"
	envUpKubernetes = "GODWIT_LAB_TEST_UP_KUBERNETES"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envUp); dir != "" {
		o := Options{Dir: dir, Bin: os.Getenv(envUpBin), Kubernetes: os.Getenv(envUpKubernetes) != ""}
		if _, err := Up(context.Background(), o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// newTestLab gives the options of a lab that is the test's own and is down when the test ends.
func newTestLab(t *testing.T) Options {
	t.Helper()
	if testing.Short() {
		t.Skip("starts nodes")
	}
	if os.Geteuid() != 0 {
		t.Skip("nodes need root")
	}
	if err := exec.Command("unshare", "--mount", "--pid", "--net", "--cgroup", "--fork", "true").Run(); err != nil {
		t.Skipf("no namespaces here: %v", err)
	}
	l, err := newLayout("")
	if err != nil {
		t.Fatal(err)
	}
	if !isDir(filepath.Join(l.cache, "roots", rootKey(nodePackages))) {
		if _, err := exec.LookPath("debootstrap"); err != nil {
			t.Skip("no cached root and no debootstrap; run godwit-lab setup")
		}
	}
	// On the disk: an overlay's upper directory may not be on every file system that /tmp can be.
	dir, err := os.MkdirTemp("/var/tmp", "lab-test-")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: dir, Bin: filepath.Join(dir, "bin")}
	t.Cleanup(func() {
		if err := Down(context.Background(), dir); err != nil {
			t.Error(err)
		}
		wantNoTrace(t, o)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return o
}

func upTest(t *testing.T, o Options) *Lab {
	t.Helper()
	l, err := Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// wantNoTrace fails if anything on the machine still tells of the lab: a process, a mount in any namespace, a link, a
// cgroup, a file.
func wantNoTrace(t *testing.T, o Options) {
	t.Helper()
	l, err := newLayout(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes() {
		args := strings.Join(p.args, " ")
		if strings.Contains(args, l.marker("")[0]+" ") && p.pid != os.Getpid() {
			t.Errorf("process %d is left: %s", p.pid, args)
		}
		mounts, _ := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/mountinfo")
		if bytes.Contains(mounts, []byte(l.data)) {
			t.Errorf("process %d (%s) still has mounts of %s", p.pid, args, l.data)
		}
		cgroups, _ := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/cgroup")
		if bytes.Contains(cgroups, []byte(l.cgroup())) {
			t.Errorf("process %d (%s) is still in a cgroup of the lab", p.pid, args)
		}
	}
	links, err := listLinks()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, l.linkPrefix()) {
			t.Errorf("link %s is left", link.Attrs().Name)
		}
	}
	for _, h := range hierarchies() {
		if isDir(filepath.Join(h.mount, l.cgroup())) {
			t.Errorf("cgroup %s is left in %s", l.cgroup(), h.mount)
		}
	}
	for _, dir := range []string{l.state, l.data} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	for _, loop := range orphanedLoops(t) {
		t.Errorf("loop device %s is left", loop)
	}
}

func TestLab(t *testing.T) {
	o := newTestLab(t)
	l := upTest(t, o)
	a, b := l.Node("a"), l.Node("b")
	addEcho(t, l, "echo")
	pa, pb := runEcho(t, a, "pa"), runEcho(t, b, "pb")

	t.Run("nodes share no namespace with each other or the host", func(t *testing.T) {
		for _, kind := range []string{"net", "mnt", "uts", "ipc", "pid", "cgroup"} {
			host, na, nb := namespace(os.Getpid(), kind), namespace(a.PID(), kind), namespace(b.PID(), kind)
			if na == "" || na == nb || na == host || nb == host {
				t.Errorf("%s: host %s, a %s, b %s", kind, host, na, nb)
			}
		}
	})
	t.Run("pods are reached from the other node and the host", func(t *testing.T) {
		wantAnswer(t, fromHost, pa.IP+":7", "hello world")
		wantAnswer(t, fromHost, pb.IP+":8", "second world")
		wantAnswer(t, b.Dial, pa.IP+":7", "hello world")
		wantAnswer(t, a.Dial, pb.IP+":8", "second world")
	})
	t.Run("a command has the node's view, its own exit status, and ends with its context", func(t *testing.T) {
		testCommand(t, a)
	})
	t.Run("a command runs in a container", func(t *testing.T) {
		if out, err := a.ExecContainer(t.Context(), pa.Containers[0].ID, "/echo"); err == nil {
			t.Errorf("a second server on the same port runs: %s", out)
		} else if !strings.Contains(err.Error(), "exit status 1") {
			t.Error(err)
		}
	})
	t.Run("up again keeps nodes and pods", func(t *testing.T) {
		again := upTest(t, o)
		for _, n := range l.Nodes() {
			if got := again.Node(n.Name).PID(); got != n.PID() {
				t.Errorf("node %s has PID %d, had %d", n.Name, got, n.PID())
			}
		}
		wantAnswer(t, fromHost, pa.IP+":7", "hello world")
	})
	t.Run("status tells what runs", func(t *testing.T) { testStatus(t, o) })
	t.Run("an image can be given to one node alone", func(t *testing.T) {
		addEcho(t, l, "only-a", "a")
		for node, want := range map[*Node]bool{a: true, b: false} {
			images, err := node.ListImages(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			has := slices.ContainsFunc(images, func(i Image) bool { return i.Ref == "localhost/only-a:latest" })
			if has != want {
				t.Errorf("node %s has it: %v, want %v", node.Name, has, want)
			}
		}
	})
	t.Run("containerd is started again and its pods live on", func(t *testing.T) { testRestart(t, a, pa) })
	t.Run("runc and CRIU checkpoint a pod's container", func(t *testing.T) { testCheckpoint(t, b, pb) })
	t.Run("a killed node is built again, the other is left alone", func(t *testing.T) {
		before := a.PID()
		if err := b.Kill(); err != nil {
			t.Fatal(err)
		}
		if b.Alive() {
			t.Fatal("b is alive")
		}
		if _, err := b.Exec(t.Context(), "true"); err == nil {
			t.Error("a command runs on a node that does not")
		}
		wantAnswer(t, fromHost, pa.IP+":7", "hello world")
		again := upTest(t, o)
		if again.Node("a").PID() != before {
			t.Error("a was built again too")
		}
		p := runEcho(t, again.Node("b"), "pb") // from the lab's images
		wantAnswer(t, a.Dial, p.IP+":7", "hello world")
	})
	t.Run("a removed pod leaves no container", func(t *testing.T) {
		if err := a.RemovePod(t.Context(), pa.ID); err != nil {
			t.Fatal(err)
		}
		pods, err := a.Pods(t.Context())
		if err != nil || len(pods) != 0 {
			t.Fatalf("pods %v, %v", pods, err)
		}
	})
	t.Run("a third node joins", func(t *testing.T) {
		more := o
		more.Nodes = 3
		l := upTest(t, more)
		p := runEcho(t, l.Node("c"), "pc")
		wantAnswer(t, l.Node("a").Dial, p.IP+":7", "hello world")
		config, err := l.Node("a").Exec(t.Context(), "cat", nodeConfigFile)
		if err != nil || !strings.Contains(string(config), l.Node("c").Addr().String()) {
			t.Errorf("a does not know of c: %s, %v", config, err)
		}
	})
	t.Run("down leaves nothing, also the second time", func(t *testing.T) {
		for range 2 {
			if err := Down(t.Context(), o.Dir); err != nil {
				t.Fatal(err)
			}
			wantNoTrace(t, o)
		}
	})
}

func testCommand(t *testing.T, n *Node) {
	out, err := n.Exec(t.Context(), "sh", "-c", "hostname; pwd; echo $HOME; cat /proc/self/cgroup; test -e "+n.lab.data+" && echo sees the host")
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if want := []string{n.Name, "/", "/root"}; len(lines) < 4 || !slices.Equal(lines[:3], want) {
		t.Errorf("got %q, want it to begin with %q", lines, want)
	}
	for _, line := range lines[3:] {
		if !strings.HasSuffix(line, ":/"+nodeinit.SystemCgroup) {
			t.Errorf("the command is not in the node's cgroup: %s", line)
		}
	}
	var exit *exec.ExitError
	if err := n.Command(t.Context(), "sh", "-c", "exit 7").Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit status: %v, want 7", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := n.Command(ctx, "sh", "-c", "echo $$; exec sleep 1000")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	inner, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("the command succeeded")
	}
	dir := "/proc/" + strings.TrimSpace(inner)
	if err := poll(t.Context(), func() (bool, error) {
		return n.Command(t.Context(), "test", "-d", dir).Run() != nil, nil
	}); err != nil {
		t.Errorf("the command's process outlives its context: %v", err)
	}
}

func testStatus(t *testing.T, o Options) {
	l, err := Open(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Status(t.Context())
	if err != nil || len(s.Nodes) != 2 {
		t.Fatalf("status %+v, %v", s, err)
	}
	for _, n := range s.Nodes {
		if !n.Running || !n.LinkUp || n.Pods != 1 || n.Containers != 2 || n.Error != "" {
			t.Errorf("status of %s: %+v", n.Name, n)
		}
		want := map[string]nodeinit.ServiceState{"containerd": nodeinit.Running, "godwit-node": nodeinit.Missing}
		for _, service := range n.Services {
			if service.State != want[service.Name] {
				t.Errorf("%s on %s is %q, want %q", service.Name, n.Name, service.State, want[service.Name])
			}
		}
	}
}

func testRestart(t *testing.T, n *Node, pod *Pod) {
	if !n.KillContainerd() {
		t.Fatal("no containerd to kill")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := poll(ctx, func() (bool, error) {
		services, err := n.Services()
		return err == nil && services[0].Restarts == 1 && services[0].State == nodeinit.Running, nil
	}); err != nil {
		t.Fatalf("containerd is not started again: %v", err)
	}
	if err := n.awaitCRI(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := n.Pod(ctx, pod.ID)
	if err != nil || got.State != "ready" || got.Containers[0].State != "running" || got.IP != pod.IP {
		t.Fatalf("pod after the restart: %+v, %v", got, err)
	}
	wantAnswer(t, fromHost, pod.IP+":7", "hello world")
}

// testCheckpoint dumps a container of CRI with runc and CRIU inside the node: what everything else of Godwit stands on.
func testCheckpoint(t *testing.T, n *Node, pod *Pod) {
	if err := n.Command(t.Context(), "criu", "check").Run(); err != nil {
		t.Skipf("CRIU cannot work on this kernel: %v", err)
	}
	_, err := n.Exec(t.Context(), "runc", "--root", "/run/containerd/runc/k8s.io", "checkpoint", "--leave-running",
		"--image-path", "/run/ck/images", "--work-path", "/run/ck/work", pod.Containers[0].ID)
	if err != nil {
		log, _ := n.Exec(t.Context(), "tail", "-n20", "/run/ck/work/dump.log")
		t.Fatalf("%v\n%s", err, log)
	}
	if _, err := n.Exec(t.Context(), "test", "-s", "/run/ck/images/inventory.img"); err != nil {
		t.Error(err)
	}
	wantAnswer(t, fromHost, pod.IP+":7", "hello world")
}
