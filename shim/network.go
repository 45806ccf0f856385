package shim

import (
	"fmt"
	"os"
	"os/exec"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The containers of a pod share its network namespace, which is made before them and stays
// when they go. CRIU, told that it is external, still mounts a sysfs for it and lists the
// connections that the kernel tracks, 20 ms in which the pod is frozen. One that works in the
// same namespace, at both ends, has nothing to do with it: a namespace that is CRIU's own is
// neither dumped nor restored (criu/namespaces.c, dump_namespaces). Both ends have to: tasks
// whose images name no network namespace are restored into CRIU's.
//
// So it is with the IPC and the UTS namespace, for which CRIU forks three times when it dumps, and makes new ones that nobody needs when it
// restores: 5 ms of processor for each container. But what they hold is CRIU's to carry: only if there is nothing does it work inside (settled).

// sharedNamespaces are the namespaces of its pod that a container is given by its specification: their paths, each empty if the namespace is the
// node's or is made for the container.
type sharedNamespaces struct{ network, ipc, uts string }

// namespacesOf finds them. They are all empty if one belongs to a user namespace.
func namespacesOf(spec *specs.Spec) (shared sharedNamespaces) {
	if spec.Linux == nil {
		return shared
	}
	for _, n := range spec.Linux.Namespaces {
		switch n.Type {
		case specs.UserNamespace:
			return sharedNamespaces{}
		case specs.NetworkNamespace:
			shared.network = n.Path
		case specs.IPCNamespace:
			shared.ipc = n.Path
		case specs.UTSNamespace:
			shared.uts = n.Path
		}
	}
	return shared
}

// Flags that come first among the arguments of helperShow, each with a namespace after it.
const (
	networkFlag = "--network"
	ipcFlag     = "--ipc"
	utsFlag     = "--uts"
)

var namespaceFlags = map[string]int{networkFlag: unix.CLONE_NEWNET, ipcFlag: unix.CLONE_NEWIPC, utsFlag: unix.CLONE_NEWUTS}

// arguments have helperShow enter the namespaces.
func (n sharedNamespaces) arguments() (args []string) {
	for _, a := range [][2]string{{networkFlag, n.network}, {ipcFlag, n.ipc}, {utsFlag, n.uts}} {
		if a[1] != "" {
			args = append(args, a[0], a[1])
		}
	}
	return args
}

// dumpNamespaces are those in which CRIU dumps the container.
func (d *departure) dumpNamespaces() (in sharedNamespaces) {
	if d.inNetwork {
		in.network = d.shared.network
	}
	if d.inNamespaces {
		in.ipc, in.uts = d.shared.ipc, d.shared.uts
	}
	return in
}

// runShown changes a command so that it runs in the namespaces that are named, and sees file systems that are nowhere
// else, among them one for CRIU's mounts, if it is to have its own.
func runShown(cmd *exec.Cmd, in sharedNamespaces, ownYard bool, mounts []arrivingTmpfs) error {
	if in == (sharedNamespaces{}) && !ownYard && len(mounts) == 0 {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the shim's own binary: %w", err)
	}
	args := append([]string{self, helperShow}, in.arguments()...)
	if ownYard {
		args = append(args, yardFlag)
	}
	cmd.Args = slices.Concat(args, showTmpfs(cmd, mounts), []string{"--", cmd.Path}, cmd.Args[1:])
	cmd.Path = self
	return nil
}

// enterNamespaces takes namespaces off the arguments of helperShow, and moves the calling
// thread, which must be locked to its goroutine, into them.
func enterNamespaces(args []string) ([]string, error) {
	for len(args) >= 2 && namespaceFlags[args[0]] != 0 {
		if err := enterNamespace(args[1], namespaceFlags[args[0]]); err != nil {
			return nil, err
		}
		args = args[2:]
	}
	return args, nil
}

func enterNamespace(path string, flag int) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("namespace of the pod: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), flag); err != nil {
		return fmt.Errorf("enter the namespace %s: %w", path, err)
	}
	return nil
}
