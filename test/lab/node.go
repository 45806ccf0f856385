package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"godwit.dev/godwit/test/lab/nodeinit"
)

// Node is a node that ran when its Lab was opened.
type Node struct {
	Name string

	lab   *Lab
	state nodeState

	mu  sync.Mutex       // guards cri
	cri *grpc.ClientConn // made at first use
}

func newNode(l *Lab, s nodeState) *Node { return &Node{Name: s.Name, lab: l, state: s} }

// Addr is the node's address on the network of all nodes and the host.
func (n *Node) Addr() netip.Addr { return n.lab.nodeAddr(n.state.Index) }

// PodSubnet is where the node's pods have their addresses.
func (n *Node) PodSubnet() netip.Prefix { return n.lab.podSubnet(n.state.Index) }

// HostLink is the host's end of the node's uplink, a port of the bridge on which all nodes and the host meet.
func (n *Node) HostLink() string { return n.lab.hostLink(n.state.Index) }

// PID is the host's number for the node's PID 1.
func (n *Node) PID() int { return n.state.PID }

// Alive says whether the node runs.
func (n *Node) Alive() bool { return n.state.alive() }

// Path is how the host reaches a file of the node while it runs. It does not follow the node's absolute symbolic links.
func (n *Node) Path(inNode string) string {
	return filepath.Join("/proc", strconv.Itoa(n.state.PID), "root", inNode)
}

// Cgroup is the node's cgroup relative to the root of each of the host's hierarchies; pods are in "pods" below it.
func (n *Node) Cgroup() string { return n.lab.nodeCgroup(n.Name) }

// Log is the file with what a service of the node ("containerd", "kubelet") or its PID 1 ("init") wrote. It can be read
// after the node has died, until the node is built again.
func (n *Node) Log(service string) string {
	return filepath.Join(n.lab.logDir(n.Name), service+".log")
}

// LogFile is the file with what a service of a node wrote, whether the node runs or not; dir is the lab's, as for Open.
func LogFile(dir, node, service string) (string, error) {
	l, err := newLayout(dir)
	if err != nil {
		return "", err
	}
	if !nodeName.MatchString(node) || !nodeName.MatchString(service) {
		return "", fmt.Errorf("node %s, service %s: %w", node, service, ErrNoNode)
	}
	return filepath.Join(l.logDir(node), service+".log"), nil
}

// Command is a command in the node: all its namespaces, its cgroup, its search path and none of the caller's environment.
// Like exec.CommandContext, but what the command has started in its process group ends with ctx too.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", n.enterScript(), "sh"}, args...)...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"CONTAINERD_NAMESPACE=k8s.io",
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd
}

// enterScript joins the node's cgroups first, because from inside they cannot be seen, and then its namespaces.
func (n *Node) enterScript() string {
	var b strings.Builder
	b.WriteString("{ ")
	for _, h := range hierarchies() {
		fmt.Fprintf(&b, "echo 0 >%s/cgroup.procs && ", filepath.Join(h.mount, n.Cgroup(), nodeinit.SystemCgroup))
	}
	fmt.Fprintf(&b, "test -d /proc/%d/ns; } 2>/dev/null || { echo node %s does not run >&2; exit 125; }\n", n.state.PID, n.Name)
	fmt.Fprintf(&b, "exec nsenter --target %d --mount --uts --ipc --net --pid --cgroup -- \"$@\"\n", n.state.PID)
	return b.String()
}

// Exec runs a command in the node and returns its standard output. The error carries the end of its standard error.
func (n *Node) Exec(ctx context.Context, args ...string) ([]byte, error) {
	cmd := n.Command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String())
		return stdout.Bytes(), fmt.Errorf("node %s: %s: %w: %s", n.Name, strings.Join(args, " "), err, said[max(0, len(said)-2000):])
	}
	return stdout.Bytes(), nil
}

// Dial connects from inside the node's network; address must be numeric.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := inNetNS(n.state.PID, func() error {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", n.Name, err)
	}
	return conn, nil
}

// Listen listens inside the node's network; address must be numeric.
func (n *Node) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := inNetNS(n.state.PID, func() error {
		var err error
		l, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", n.Name, err)
	}
	return l, nil
}

// Kill ends the node as a power loss would: every process at once, its link with them. Its disk and logs stay until Up
// builds it again, or Down. It returns when nothing of the node runs any more.
func (n *Node) Kill() error {
	if n.Alive() {
		kill([]int{n.state.PID})
	}
	if link, err := netlink.LinkByName(n.lab.hostLink(n.state.Index)); err == nil {
		_ = netlink.LinkSetDown(link) // it disappears with the namespace in any case
	}
	if err := n.lab.endNode(n.Name); err != nil {
		return err
	}
	return errors.Join(n.closeCRI(), n.lab.detach(n.Name, n.state.Index))
}

// Services says what the node's supervisor says of containerd, godwit-node and the programs of a cluster.
func (n *Node) Services() ([]nodeinit.ServiceStatus, error) {
	b, err := os.ReadFile(n.Path(nodeinit.StatusFile))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", n.Name, err)
	}
	var all []nodeinit.ServiceStatus
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("node %s: status of its services: %w", n.Name, err)
	}
	return all, nil
}

// KillDaemon kills godwit-node with SIGKILL; the supervisor starts it again after nodeinit.RestartAfter. It says whether
// there was one.
func (n *Node) KillDaemon() bool { return n.killService("godwit-node") }

// KillContainerd kills containerd with SIGKILL; pods and their shims live on, and the supervisor starts it again.
func (n *Node) KillContainerd() bool { return n.killService("containerd") }

// KillService kills a service by its name ("kubelet", and of a control plane "kube-apiserver" or "etcd") with SIGKILL; the
// supervisor starts it again. It says whether there was one.
func (n *Node) KillService(name string) bool { return n.killService(name) }

func (n *Node) killService(name string) bool {
	pid := n.ServicePID(name)
	if pid > 0 {
		kill([]int{pid})
	}
	return pid > 0
}

// ServicePID is the host's number for a service's process, or 0. The supervisor knows its number in the node: the process
// with that number whose PID namespace is the node's is the one.
func (n *Node) ServicePID(name string) int {
	services, err := n.Services()
	if err != nil {
		return 0
	}
	for _, s := range services {
		if s.Name != name || s.PID == 0 {
			continue
		}
		for _, pid := range cgroupPIDs(filepath.Join(n.Cgroup(), nodeinit.SystemCgroup)) {
			if innerPID(pid) == s.PID {
				return pid
			}
		}
	}
	return 0
}

// innerPID is a process's number in its own PID namespace: the last of NSpid in proc_pid_status(5).
func innerPID(pid int) int {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(rest)
			inner, _ := strconv.Atoi(f[len(f)-1])
			return inner
		}
	}
	return 0
}

// staleDaemon says whether godwit-node runs from a binary that has been built anew since.
func (n *Node) staleDaemon() bool {
	pid := n.ServicePID("godwit-node")
	if pid == 0 {
		return false
	}
	runs, err1 := os.Stat("/proc/" + strconv.Itoa(pid) + "/exe")
	built, err2 := os.Stat(filepath.Join(n.lab.bin, "godwit-node"))
	return err1 == nil && err2 == nil && !os.SameFile(runs, built)
}

// refreshFiles replaces those of a running node's files that differ.
func (n *Node) refreshFiles(files []nodeinit.File) (changed bool, err error) {
	for _, f := range files {
		path := n.Path(f.Path)
		if old, err := os.ReadFile(path); err == nil && string(old) == f.Content {
			continue
		}
		if err := os.WriteFile(path, []byte(f.Content), os.FileMode(f.Mode)); err != nil {
			return changed, fmt.Errorf("node %s: %w", n.Name, err)
		}
		changed = true
	}
	return changed, nil
}
