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

// networkFlag comes first among the arguments of helperShow, and then the namespace.
const networkFlag = "--network"

// networkOf is the network namespace that a container is given by its specification; empty
// if it is the node's, is made for the container, or belongs to a user namespace.
func networkOf(spec *specs.Spec) string {
	path := ""
	if spec.Linux == nil {
		return ""
	}
	for _, n := range spec.Linux.Namespaces {
		switch n.Type {
		case specs.UserNamespace:
			return ""
		case specs.NetworkNamespace:
			path = n.Path
		}
	}
	return path
}

// dumpNetwork are the arguments that have CRIU dump in the container's network namespace.
func (d *departure) dumpNetwork() []string {
	if !d.inNetwork || d.network == "" {
		return nil
	}
	return []string{networkFlag, d.network}
}

// runShown changes a command so that it runs in a network namespace, if one is named, and sees file systems that are nowhere
// else, among them one for CRIU's mounts, if it is to have its own.
func runShown(cmd *exec.Cmd, network string, ownYard bool, mounts []arrivingTmpfs) error {
	if network == "" && !ownYard && len(mounts) == 0 {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the shim's own binary: %w", err)
	}
	args := []string{self, helperShow}
	if network != "" {
		args = append(args, networkFlag, network)
	}
	if ownYard {
		args = append(args, yardFlag)
	}
	cmd.Args = slices.Concat(args, showTmpfs(cmd, mounts), []string{"--", cmd.Path}, cmd.Args[1:])
	cmd.Path = self
	return nil
}

// enterNetwork takes the namespace off the arguments of helperShow, and moves the calling
// thread, which must be locked to its goroutine, into it.
func enterNetwork(args []string) ([]string, error) {
	if len(args) < 2 || args[0] != networkFlag {
		return args, nil
	}
	ns, err := os.Open(args[1])
	if err != nil {
		return nil, fmt.Errorf("network namespace of the pod: %w", err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter the network namespace %s: %w", args[1], err)
	}
	return args[2:], nil
}
