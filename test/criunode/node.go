// Package criunode makes a small machine for CRIU alone: namespaces over a root
// file system that has it, without a network, containerd or Kubernetes. Tests
// and benchmarks dump processes in it that they put there. Whole nodes are
// package lab's.
package criunode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// EnvRoot names a root file system that has criu.
const EnvRoot = "GODWIT_ROOTFS"

// envCache moves the cache of package lab, which has such a root file system.
const envCache = "GODWIT_LAB_CACHE"

// ErrUnavailable says why there can be no node here.
var ErrUnavailable = errors.New("no machine for CRIU can be made here")

// setup makes the node's mounts and stays as its first process. CRIU needs its
// root to be a mount point: pivot_root, not chroot.
const setup = `set -e
mount -t tmpfs tmpfs "$1"; mkdir "$1"/up "$1"/work "$1"/root
mount -t overlay overlay -o lowerdir="$2",upperdir="$1"/up,workdir="$1"/work "$1"/root
cd "$1"/root; mkdir -p .old shared
mount -t proc proc proc; mount --rbind /sys sys; mount --rbind /dev dev
mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp
mount --rbind "$3" shared
pivot_root . .old; umount -l /.old; ip link set lo up
echo up; while :; do sleep 0.2; done # a shell reaps what is left to it`

// Node is such a machine. Processes and mounts of it end with it.
type Node struct {
	init *exec.Cmd
	log  bytes.Buffer
	dir  string
	// closed lets the thread go from which the first process was started.
	closed chan struct{}
}

// New makes a node in which the directory shared is seen as /shared. The root
// file system is that of EnvRoot, else the lab's, else this machine's if criu
// is in $PATH. An error wraps ErrUnavailable if there is none, or no right to
// make a node. Close ends the node.
func New(shared string) (*Node, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "criunode")
	if err != nil {
		return nil, fmt.Errorf("criu node: %w", err)
	}
	n := &Node{dir: dir}
	if err := n.start(root, shared); err != nil {
		os.Remove(dir)
		return nil, err
	}
	return n, nil
}

func (n *Node) start(root, shared string) error {
	n.init = exec.Command("bash", "-c", setup, "criunode", n.dir, root, shared)
	n.init.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:    unix.SIGKILL,
		Cloneflags:   unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Unshareflags: unix.CLONE_NEWNS,
	}
	n.init.Stderr = &n.log
	out, err := n.init.StdoutPipe()
	if err != nil {
		return fmt.Errorf("criu node: %w", err)
	}
	if err := n.startHeld(); err != nil {
		return fmt.Errorf("no right to make namespaces: %w: %w", err, ErrUnavailable)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		n.init.Process.Kill()
		n.init.Wait()
		close(n.closed)
		return fmt.Errorf("criu node: %w: %s", err, n.log.String())
	}
	return nil
}

// startHeld starts the node's first process from a thread that stays until the node is closed: the kernel sends the signal of
// a parent's death when the thread ends that started the process, and in the tests of namespaces threads do end.
func (n *Node) startHeld() error {
	started := make(chan error)
	n.closed = make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := n.init.Start()
		started <- err
		if err == nil {
			<-n.closed
		}
	}()
	return <-started
}

// Close ends everything in the node.
func (n *Node) Close() error {
	n.init.Process.Kill()
	n.init.Wait() // it was killed
	close(n.closed)
	return os.Remove(n.dir)
}

// Command runs a program in the node.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	pid := strconv.Itoa(n.init.Process.Pid)
	return exec.CommandContext(ctx, "nsenter", append([]string{"-t", pid, "-m", "-p", "-n", "-u", "-i"}, args...)...)
}

// Path is where this process sees a file of the node.
func (n *Node) Path(p string) string {
	return filepath.Join("/proc", strconv.Itoa(n.init.Process.Pid), "root", p)
}

// PIDs finds the node's processes by their program's name, with the pid that
// each has here and the one it has in the node.
func (n *Node) PIDs(name string) (map[int]int, error) {
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", n.init.Process.Pid))
	if err != nil {
		return nil, fmt.Errorf("criu node: %w", err)
	}
	found := make(map[int]int)
	all, _ := filepath.Glob("/proc/[0-9]*/ns/pid")
	for _, path := range all {
		if ns, err := os.Readlink(path); err != nil || ns != ours {
			continue
		}
		dir := filepath.Dir(filepath.Dir(path))
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if comm, inside := parseStatus(string(status)); comm == name {
			found[pid] = inside
		}
	}
	return found, nil
}

// parseStatus takes the name and the innermost pid out of /proc/PID/status.
func parseStatus(status string) (name string, inside int) {
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "Name:":
			name = f[1]
		case len(f) > 1 && f[0] == "NSpid:":
			inside, _ = strconv.Atoi(f[len(f)-1])
		}
	}
	return name, inside
}

// findRoot finds a root file system with criu.
func findRoot() (string, error) {
	if root := os.Getenv(EnvRoot); root != "" {
		return root, nil
	}
	cache := os.Getenv(envCache)
	if cache == "" {
		cache = "/var/cache/godwit-lab"
	}
	if found, _ := filepath.Glob(filepath.Join(cache, "roots", "*", "usr", "sbin", "criu")); len(found) > 0 {
		return strings.TrimSuffix(found[0], "/usr/sbin/criu"), nil
	}
	if _, err := exec.LookPath("criu"); err == nil {
		return "/", nil
	}
	return "", fmt.Errorf("no criu in PATH or in the lab's cache, and %s names no root file system that has it: %w", EnvRoot, ErrUnavailable)
}
