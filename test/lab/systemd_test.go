package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/pace"
)

// bootScript makes $1 the root of a machine and runs its systemd. It is in namespaces of its own, the cgroup's among them: systemd wants a
// hierarchy of version 2 and is at its root, without controllers where version 1 has them. containerd's own directory must not be on an
// overlay. Terminals are none of its business, they are the machine's.
const bootScript = `set -e
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for d in run tmp dev var/lib/containerd; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for d in null zero full random urandom; do touch dev/$d; mount --bind /dev/$d dev/$d; done
ln -sf /dev/null etc/systemd/system/getty.target
ln -sf /dev/null etc/systemd/system/console-getty.service
mkdir -p old
pivot_root . old
umount -l /old
exec env -i container=lab PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --log-target=journal --show-status=no </dev/null
`

// systemdMachine is a Debian whose first process is systemd, in namespaces of this machine.
type systemdMachine struct {
	root string
	init int // systemd's pid out here
}

// bootSystemd boots a root file system, which is down when the test ends. It skips the test where no cgroup hierarchy of version 2 is mounted.
func bootSystemd(t *testing.T, root string) *systemdMachine {
	t.Helper()
	group := systemdCgroup(t)
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var said bytes.Buffer
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--cgroup", "--uts", "--ipc", "--net", "--fork", "--kill-child",
		"sh", "-c", bootScript, "sh", root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Stdout, cmd.Stderr = &said, &said
	started, ended := make(chan error), make(chan struct{})
	go func() { // the death signal is tied to the thread that starts the child
		defer close(ended)
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and with it the first process of the namespace, so all
		<-ended
		if t.Failed() {
			t.Logf("systemd said: %s", said.String())
		}
	})
	m := &systemdMachine{root: root}
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(time.Minute))
	defer cancel()
	err = poll(ctx, func() (bool, error) {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return false, fmt.Errorf("%w: %s", err, said.String())
		}
		m.init, _ = strconv.Atoi(strings.TrimSpace(string(children)))
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", m.init))
		return filepath.Base(exe) == "systemd" && m.try(ctx, "systemctl", "is-system-running", "--wait") == nil, nil
	})
	if err != nil {
		t.Fatalf("it does not boot: %v: %s", err, m.tried(t, "systemctl", "--failed"))
	}
	return m
}

// systemdCgroup makes a cgroup of version 2 for a machine, and removes it and what systemd has made in it when the test ends.
func systemdCgroup(t *testing.T) string {
	t.Helper()
	i := slices.IndexFunc(hierarchies(), func(h hierarchy) bool { return h.v2 })
	if i < 0 {
		t.Skip("no cgroup hierarchy of version 2 is mounted, without which systemd does not run")
	}
	group, err := os.MkdirTemp(hierarchies()[i].mount, "godwit-systemd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(20*time.Second))
		defer cancel()
		err := poll(ctx, func() (bool, error) { // the kernel empties it when the processes are gone
			removeCgroups(group)
			_, err := os.Stat(group)
			return errors.Is(err, fs.ErrNotExist), nil
		})
		if err != nil {
			t.Errorf("cgroup %s is left: %v", group, err)
		}
	})
	return group
}

func removeCgroups(group string) {
	var all []string
	_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for _, path := range slices.Backward(all) {
		_ = unix.Rmdir(path)
	}
}

func (m *systemdMachine) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.init), "--all", "--wd=/"}, args...)...)
}

func (m *systemdMachine) try(ctx context.Context, args ...string) error {
	return m.command(ctx, args...).Run()
}

// tried is what a command says, whatever comes of it.
func (m *systemdMachine) tried(t *testing.T, args ...string) string {
	out, err := m.command(t.Context(), args...).CombinedOutput()
	return fmt.Sprintf("%s (%v)", out, err)
}

func (m *systemdMachine) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.command(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s\n%s", strings.Join(args, " "), err, out, m.tried(t, "journalctl", "--no-pager", "-n", "60"))
	}
	return strings.TrimSpace(string(out))
}

// property asks systemd for one of the daemon's unit.
func (m *systemdMachine) property(t *testing.T, name string) string {
	t.Helper()
	return m.run(t, "systemctl", "show", "godwit-node", "--value", "--property", name)
}

// startContainer has containerd run a container by Godwit's shim, outside of Kubernetes, and gives its pid in the machine. No limits are set:
// there may be no controllers.
func (m *systemdMachine) startContainer(t *testing.T, name string, args ...string) (pid string) {
	t.Helper()
	rootfs := filepath.Join(m.root, "var/lib/rootfs")
	for _, dir := range []string{"usr", "proc", "sys", "dev", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+link, filepath.Join(rootfs, link)); err != nil {
			t.Fatal(err)
		}
	}
	var spec map[string]any
	if err := json.Unmarshal([]byte(m.run(t, "ctr", "oci", "spec")), &spec); err != nil {
		t.Fatal(err)
	}
	linux, process := spec["linux"].(map[string]any), spec["process"].(map[string]any)
	delete(linux, "resources")
	linux["cgroupsPath"] = "/" + name
	process["args"], process["terminal"] = args, false
	spec["root"] = map[string]any{"path": "/var/lib/rootfs"}
	spec["mounts"] = append(spec["mounts"].([]any), map[string]any{"destination": "/usr", "type": "bind", "source": "/usr", "options": []string{"rbind", "ro"}})
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.root, "var/lib/spec.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	m.run(t, "ctr", "-n", "k8s.io", "run", "--detach", "--runtime", "io.containerd.godwit.v2", "--config", "/var/lib/spec.json", name)
	return m.runningTask(t, name)
}

// runningTask is the pid of a container that runs, "" if it does not.
func (m *systemdMachine) runningTask(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(m.run(t, "ctr", "-n", "k8s.io", "tasks", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name && f[2] == "RUNNING" {
			return f[1]
		}
	}
	return ""
}

// TestClusterNodeImageIsRunBySystemd boots a baked Debian whose first process is systemd: the unit starts the daemon, starts it again when it
// dies, and stops it; nothing of that is noticed by what runs in containers.
func TestClusterNodeImageIsRunBySystemd(t *testing.T) {
	o := newTestCluster(t) // for its conditions
	lo, err := newLayout(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	debian, err := (&Lab{layout: lo, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}).debianRoot(t.Context(), append(slices.Clone(nodePackages), "systemd-sysv"))
	if err != nil {
		t.Fatal(err)
	}
	root := overlayOf(t, debian)
	bakeNode(t, root, o.Bin)
	m := bootSystemd(t, root)
	t.Logf("%s", strings.SplitN(m.run(t, "systemctl", "--version"), "\n", 2)[0])

	// Of a unit of type notify systemd says so only after READY=1.
	if got := m.property(t, "Type") + " " + m.property(t, "ActiveState"); got != "notify active" {
		t.Fatalf("the unit is %s: %s", got, m.tried(t, "systemctl", "status", "godwit-node"))
	}
	m.run(t, "godwitctl", "pods")
	container := m.startContainer(t, "sleeper", "/bin/sleep", "infinity")
	if container == "" {
		t.Fatal("the container does not run")
	}
	runs := func(when string) {
		t.Helper()
		if got := m.runningTask(t, "sleeper"); got != container {
			t.Errorf("%s the container's process is %q, it was %q", when, got, container)
		}
	}
	t.Run("it starts the daemon again when that is killed", func(t *testing.T) {
		before := m.property(t, "MainPID")
		killed := time.Now()
		m.run(t, "kill", "-KILL", before)
		ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(10*time.Second))
		defer cancel()
		err := poll(ctx, func() (bool, error) {
			return m.property(t, "ActiveState") == "active" && m.property(t, "NRestarts") == "1", nil
		})
		if err != nil {
			t.Fatalf("%v: %s", err, m.tried(t, "systemctl", "status", "godwit-node"))
		}
		t.Logf("active again %s after it was killed", time.Since(killed).Round(10*time.Millisecond))
		if after := m.property(t, "MainPID"); after == before || after == "0" {
			t.Errorf("the daemon is process %s, it was %s", after, before)
		}
		if pause := m.property(t, "RestartUSec"); pause != "200ms" {
			t.Errorf("it waits %s before it does", pause)
		}
		m.run(t, "godwitctl", "pods")
		runs("after that")
	})
	t.Run("a stop leaves alone what the daemon has started", func(t *testing.T) {
		// A process of the daemon that outlives it, as those do by which it has containerd start a container.
		child := m.command(t.Context(), "sh", "-c", `echo $$ >/sys/fs/cgroup/system.slice/godwit-node.service/cgroup.procs && echo in && exec sleep infinity`)
		said, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := said.Read(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		died := make(chan struct{})
		go func() { defer close(died); _ = child.Wait() }()
		defer func() { _ = child.Process.Kill(); <-died }()
		m.run(t, "systemctl", "stop", "godwit-node")
		if got := m.property(t, "ActiveState") + " " + m.property(t, "Result"); got != "inactive success" {
			t.Errorf("stopped it is %s", got)
		}
		runs("stopped")
		select {
		case <-died:
			t.Error("the daemon's process was ended too")
		default:
		}
		m.run(t, "systemctl", "start", "godwit-node")
		if got := m.property(t, "ActiveState"); got != "active" {
			t.Errorf("started again it is %s", got)
		}
		runs("started again")
	})
}

// bakeNode puts Godwit and its unit into a root file system, and makes it a node of its own: with a certificate, and no other node.
func bakeNode(t *testing.T, root, bin string) {
	t.Helper()
	script := filepath.Join(filepath.Dir(filepath.Dir(testDir(t))), "contrib", "image", "bake.sh")
	if out, err := exec.Command(script, root, bin, "--systemd").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctl, ca := filepath.Join(bin, "godwitctl"), t.TempDir()
	for _, args := range [][]string{
		{"pki", "init", "--dir", ca},
		{"pki", "issue", "--dir", ca, "--name", "node-1", "--ip", "127.0.0.1", "--out", filepath.Join(root, "etc/godwit/pki")},
	} {
		if err := godwitctl(t.Context(), ctl, args...); err != nil {
			t.Fatal(err)
		}
	}
	// The file that comes with the unit is a node's but for its addresses.
	file := filepath.Join(root, "etc/godwit/node.toml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	config, _, _ := strings.Cut(string(b), "[peers]")
	config = strings.ReplaceAll(config, "192.0.2.11", "127.0.0.1")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
}
