package shim

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a kind of namespace that a thread can enter and leave: its name in /proc and its flag for setns.
type namespace struct {
	name string
	flag int
}

var (
	ipcNamespace     = namespace{"ipc", unix.CLONE_NEWIPC}
	utsNamespace     = namespace{"uts", unix.CLONE_NEWUTS}
	networkNamespace = namespace{"net", unix.CLONE_NEWNET}
)

// inNamespace does something in a namespace of a process of the pod, and nothing if that is the shim's own. The thread comes
// back: one that ended would take along what it has started, as runc asks to be killed with the thread that is its parent.
func inNamespace(pid int, ns namespace, do func() error) error {
	runtime.LockOSThread()
	stay, err := visit(pid, ns, do)
	if !stay {
		runtime.UnlockOSThread()
	}
	return err
}

// visit is inNamespace on a locked thread; stay says that the thread could not come back.
func visit(pid int, ns namespace, do func() error) (stay bool, err error) {
	pod, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("%s namespace of the pod: %w", ns.name, err)
	}
	defer unix.Close(pod)
	own, err := unix.Open("/proc/thread-self/ns/"+ns.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("%s namespace of the shim: %w", ns.name, err)
	}
	defer unix.Close(own)
	if same, err := sameFile(pod, own); err != nil || same {
		return false, err
	}
	if err := unix.Setns(pod, ns.flag); err != nil {
		return false, fmt.Errorf("enter %s namespace of the pod: %w", ns.name, err)
	}
	err = do()
	if back := unix.Setns(own, ns.flag); back != nil {
		return true, errors.Join(err, fmt.Errorf("leave %s namespace of the pod: %w", ns.name, back))
	}
	return false, err
}

func sameFile(a, b int) (bool, error) {
	var first, second unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &first), unix.Fstat(b, &second)); err != nil {
		return false, fmt.Errorf("compare namespaces: %w", err)
	}
	return first.Dev == second.Dev && first.Ino == second.Ino, nil
}
