package processcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// namespaceKinds are those that CRIU tells apart (criu/namespaces.c,
// dump_task_ns_ids).
var namespaceKinds = []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}

// Gather looks at the processes of containers. It neither stops nor traces them.
// A process that ends meanwhile is left out; a container whose first process is
// gone is an error.
func Gather(ctx context.Context, containers []Container) (*Snapshot, error) {
	g := &gatherer{mounts: make(map[string]map[int]Mount), peers: make(map[string]map[uint64]uint64)}
	s := &Snapshot{RootOnly: !anyoneMay(unix.CAP_SYS_RESOURCE)}
	s.UserNamespace, _ = os.Readlink("/proc/self/ns/user") // a kernel without them has none below either
	for _, c := range containers {
		state, err := g.container(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("processes of container %s: %w", c.Name, err)
		}
		s.Containers = append(s.Containers, state)
	}
	return s, nil
}

// gatherer remembers what belongs to namespaces, which processes share.
type gatherer struct {
	mounts map[string]map[int]Mount     // by mount namespace
	peers  map[string]map[uint64]uint64 // of unix sockets, by network namespace
}

func (g *gatherer) container(ctx context.Context, c Container) (ContainerState, error) {
	state := ContainerState{Name: c.Name, Storage: c.Storage}
	tree, err := descendants(c.PID)
	if err != nil {
		return state, err
	}
	for _, pid := range tree {
		if err := ctx.Err(); err != nil {
			return state, err
		}
		p, err := g.process(pid)
		switch {
		case gone(err) && pid != c.PID:
			continue
		case err != nil:
			return state, fmt.Errorf("process %d: %w", pid, err)
		}
		state.Processes = append(state.Processes, p)
	}
	state.Strangers, err = strangers(c.PID, tree)
	return state, err
}

// gone says whether a process ended while it was looked at.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }

func proc(pid int, parts ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, parts...)...)
}

// descendants are a process and all that descend from it, itself first.
func descendants(pid int) ([]int, error) {
	if err := unix.Kill(pid, 0); err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		children, _ := filepath.Glob(proc(tree[i], "task", "*", "children"))
		for _, file := range children {
			b, err := os.ReadFile(file)
			if err != nil && !gone(err) {
				return nil, fmt.Errorf("children: %w", err)
			}
			for _, field := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(field); err == nil && !slices.Contains(tree, child) {
					tree = append(tree, child)
				}
			}
		}
	}
	return tree, nil
}

// strangers are the processes of a container's cgroup that are not in its tree.
func strangers(first int, tree []int) ([]Stranger, error) {
	cgroup, err := os.ReadFile(proc(first, "cgroup"))
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("processes of the node: %w", err)
	}
	var found []Stranger
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || slices.Contains(tree, pid) {
			continue
		}
		if other, err := os.ReadFile(proc(pid, "cgroup")); err != nil || !bytes.Equal(other, cgroup) || !isolated(pid, first) {
			continue
		}
		if name, err := os.ReadFile(proc(pid, "comm")); err == nil {
			found = append(found, Stranger{PID: pid, Name: strings.TrimSpace(string(name))})
		}
	}
	return found, nil
}

// isolated says whether two processes are in one mount namespace which is not
// ours: one who has a container's cgroup on the node's own terms is none of its
// processes.
func isolated(pid, first int) bool {
	ours, _ := os.Readlink("/proc/self/ns/mnt")
	a, _ := os.Readlink(proc(pid, "ns", "mnt"))
	b, _ := os.Readlink(proc(first, "ns", "mnt"))
	return a == b && a != ours
}

func (g *gatherer) process(pid int) (Process, error) {
	p := Process{PID: pid, Root: true, Namespaces: make(map[string]string)}
	if err := p.readStatus(); err != nil {
		return p, err
	}
	if p.State == 'Z' {
		return p, nil // it has nothing any more
	}
	for _, kind := range namespaceKinds {
		name, err := os.Readlink(proc(pid, "ns", kind))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return p, fmt.Errorf("namespace: %w", err)
		}
		p.Namespaces[kind] = name
	}
	var err error
	if p.Dir, err = os.Readlink(proc(pid, "cwd")); err != nil {
		return p, fmt.Errorf("working directory: %w", err)
	}
	if p.Mounts, err = g.mountsOf(&p); err != nil {
		return p, err
	}
	if p.Files, err = g.files(&p); err != nil {
		return p, err
	}
	p.Areas, err = areas(pid)
	return p, err
}

func (p *Process) readStatus() error {
	b, err := os.ReadFile(proc(p.PID, "status"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			p.Name = value
		case "State":
			p.State = value[0]
		case "Threads":
			p.Threads, err = strconv.Atoi(value)
		case "TracerPid":
			p.Tracer, err = strconv.Atoi(value)
		case "Uid", "Gid":
			p.Root = p.Root && allRoot(value)
		case "NSpid":
			f := strings.Fields(value)
			p.PIDInside, err = strconv.Atoi(f[len(f)-1])
		}
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
	}
	return nil
}

// allRoot says whether a process' users or groups of a status are root: real, effective and saved. The fourth is for files only.
func allRoot(ids string) bool {
	f := strings.Fields(ids)
	return len(f) >= 3 && f[0] == "0" && f[1] == "0" && f[2] == "0"
}

// anyoneMay says whether any process of the node can have a capability: what its first one is bound to, all are. Where that cannot be read it may.
func anyoneMay(capability int) bool {
	b, err := os.ReadFile(proc(1, "status"))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(b)) {
		if set, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return err != nil || bits&(1<<capability) != 0
		}
	}
	return true
}

func (g *gatherer) mountsOf(p *Process) (map[int]Mount, error) {
	if m, ok := g.mounts[p.Namespaces["mnt"]]; ok {
		return m, nil
	}
	f, err := os.Open(proc(p.PID, "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	mounts := make(map[int]Mount, len(infos))
	for _, i := range infos {
		mounts[i.ID] = Mount{Device: Device{uint32(i.Major), uint32(i.Minor)}, Type: i.FSType, Super: i.VFSOptions, Point: i.Mountpoint}
	}
	g.mounts[p.Namespaces["mnt"]] = mounts
	return mounts, nil
}
