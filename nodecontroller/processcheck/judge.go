package processcheck

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

// Judge says what of a snapshot is in the way of a move.
func Judge(s *Snapshot) []obstacle.Finding {
	var found []obstacle.Finding
	for i := range s.Containers {
		found = append(found, judgeContainer(s, &s.Containers[i])...)
	}
	found = append(found, sharedSysV(s)...)
	// One thing may be seen in many ways: a file by each descriptor of it.
	var once []obstacle.Finding
	for _, f := range found {
		if !slices.Contains(once, f) {
			once = append(once, f)
		}
	}
	return once
}

// scope is what rules know beside the process.
type scope struct {
	snapshot  *Snapshot
	container *ContainerState
	process   *Process
}

// refuse is a finding about the process: what it has or is, and what to do.
func (c *scope) refuse(what, remedy string) obstacle.Finding {
	return obstacle.Refuse("%s %s: %s", c.who(), what, remedy)
}

func (c *scope) warn(what, remedy string) obstacle.Finding {
	return obstacle.Warn("%s %s: %s", c.who(), what, remedy)
}

func (c *scope) who() string {
	return fmt.Sprintf("container %s, process %d (%s)", c.container.Name, c.process.PID, c.process.Name)
}

// cannot is the commonest finding: it has something that CRIU cannot dump.
func (c *scope) cannot(what, remedy string) []obstacle.Finding {
	return []obstacle.Finding{c.refuse("has "+what+", which CRIU cannot dump", remedy)}
}

func judgeContainer(s *Snapshot, state *ContainerState) []obstacle.Finding {
	var found []obstacle.Finding
	for i := range state.Processes {
		c := &scope{snapshot: s, container: state, process: &state.Processes[i]}
		found = append(found, c.judgeState(i == 0)...)
		if i > 0 {
			found = append(found, c.judgeNamespaces(&state.Processes[0])...)
		}
		for j := range c.process.Files {
			found = append(found, c.judgeFile(&c.process.Files[j])...)
			found = append(found, c.judgeVolume(&c.process.Files[j])...)
		}
		if isAnew(c.process.Dir + "/") {
			found = append(found, c.anew("works in "+c.process.Dir))
		}
		for _, a := range c.process.Areas {
			found = append(found, c.judgeArea(a)...)
		}
		found = append(found, c.connections()...)
	}
	for _, p := range state.Strangers {
		found = append(found, obstacle.Warn("container %s, process %d (%s) was started in it from outside, by kubectl exec or a probe, and is not moved: it ends with the source",
			state.Name, p.PID, p.Name))
	}
	return found
}

// judgeState is about what the process is.
func (c *scope) judgeState(first bool) []obstacle.Finding {
	p := c.process
	var found []obstacle.Finding
	if p.Tracer != 0 {
		// compel/src/lib/infect.c, compel_wait_task: CRIU has to trace it itself.
		found = append(found, c.refuse(fmt.Sprintf("is traced by process %d", p.Tracer), "end the debugger"))
	}
	if p.State == 'Z' && p.Threads > 1 {
		// criu/seize.c, collect_task: "Zombies with threads are not supported".
		found = append(found, c.refuse("has ended its first thread while others run on, which CRIU cannot dump", "let its main thread wait for the others"))
	}
	if c.snapshot.RootOnly && !p.Root && p.State != 'Z' && p.Namespaces["user"] == c.snapshot.UserNamespace {
		// criu/cr-dump.c, dump_task_rlimits: it asks for them by prlimit, which takes CAP_SYS_RESOURCE for another user's process (kernel:
		// kernel/sys.c, check_prlimit_permission).
		found = append(found, c.refuse("is not root's, and nobody on this node has CAP_SYS_RESOURCE, without which CRIU cannot read its limits",
			"give the node that capability, or run the container as root"))
	}
	if first && p.PIDInside != 1 {
		// criu/namespaces.c, dump_namespaces: "Can't dump a pid namespace without the process init".
		found = append(found, c.refuse("is not the first of its pid namespace, without which CRIU cannot dump it", "set shareProcessNamespace: false"))
	}
	return found
}

// nested namespaces that CRIU refuses by kind, each with what makes them.
// criu/namespaces.c, generate_ns_id: all but those of mounts and networks. Of
// mounts CRIU knows only those of the container by their sources (criu/mount.c,
// "doesn't have a proper root mount"), and of networks only the pod's is left
// out of the dump.
func (c *scope) judgeNamespaces(first *Process) []obstacle.Finding {
	if c.process.State == 'Z' {
		return nil
	}
	var others []string
	for _, kind := range namespaceKinds {
		if c.process.Namespaces[kind] != first.Namespaces[kind] {
			others = append(others, kind)
		}
	}
	if len(others) == 0 {
		return nil
	}
	return []obstacle.Finding{c.refuse("is in a namespace of its own ("+strings.Join(others, ", ")+"), inside the container's, which cannot be moved",
		"run it without a sandbox or containers of its own")}
}

func (c *scope) judgeArea(a Area) []obstacle.Finding {
	switch {
	case strings.HasPrefix(a.Path, "anon_inode:[io_uring]"):
		return c.cannot("an io_uring mapped", useNoIOURing)
	case strings.HasPrefix(a.Path, "anon_inode:"):
		return c.cannot(fmt.Sprintf("%s mapped", strings.TrimPrefix(a.Path, "anon_inode:")), "close it")
	case strings.HasPrefix(a.Path, "/secretmem"):
		return c.cannot("secret memory (memfd_secret)", "configure it not to use any")
	case strings.HasPrefix(a.Path, "/dmabuf:"):
		return c.cannot("a DMA buffer mapped", noDevices)
	case a.Path == "[uprobes]":
		// criu/proc_parse.c, handle_vma: only with allow-uprobes, which leaves the probe's
		// breakpoints in the code.
		return []obstacle.Finding{c.refuse("is watched by a uprobe", "end the tracing tool, bpftrace or perf for example")}
	case isAnew(a.Path):
		return []obstacle.Finding{c.anew("has " + a.Path + " mapped")}
	case a.Device && a.Special != devZero:
		// criu/proc_parse.c, handle_vma: "Can't handle non-regular mapping".
		return c.cannot("the device "+a.Path+" mapped", noDevices)
	}
	return nil
}

// devZero is /dev/zero, the one device whose areas CRIU dumps.
var devZero = Device{1, 5}

// sharedSysV finds System V shared memory that two containers have attached:
// package shim gives all objects to one of them.
func sharedSysV(s *Snapshot) []obstacle.Finding {
	var names []string
	for _, state := range s.Containers {
		if slices.ContainsFunc(state.Processes, attachesSysV) {
			names = append(names, state.Name)
		}
	}
	if len(names) < 2 {
		return nil
	}
	return []obstacle.Finding{obstacle.Refuse("containers %s all have System V shared memory attached, which CRIU restores for one container only: share memory by files in an emptyDir or by memfd",
		strings.Join(names, " and "))}
}

func attachesSysV(p Process) bool {
	return slices.ContainsFunc(p.Areas, func(a Area) bool { return strings.HasPrefix(a.Path, "/SYSV") })
}

// connections warns once of the process's TCP connections.
func (c *scope) connections() []obstacle.Finding {
	n := 0
	for _, f := range c.process.Files {
		if f.Socket != nil && f.Socket.connected() {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return []obstacle.Finding{c.warn(fmt.Sprintf("has %d TCP connections, which the move closes", n), "have its clients connect again")}
}

// connected says whether it is a TCP socket with a peer elsewhere.
func (s *Socket) connected() bool {
	const established, listen, closed, timeWait = 1, 10, 7, 6
	return s.State >= established && s.State != listen && s.State != closed && s.State != timeWait && s.Type == unix.SOCK_STREAM
}
