package census

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"godwit.dev/godwit/test/lab"
)

// counted are the programs whose descriptors are counted: those that live on when a pod has left, and the pods' shims.
func counted(comm string) bool {
	return strings.HasPrefix(comm, "containerd") || strings.HasPrefix(comm, "godwit-node")
}

// processes counts the node's processes by name, the descriptors of those that outlive pods by what they are, and all
// userfaultfds.
func (c Census) processes(n *lab.Node) error {
	all, err := PIDs(n)
	if err != nil {
		return err
	}
	for _, pid := range all {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // it has ended
		}
		name := strings.TrimSpace(string(comm))
		c["process "+pattern(name)]++
		fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
		for _, fd := range fds {
			what, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			if err != nil {
				continue
			}
			if strings.HasPrefix(what, "anon_inode:[userfaultfd]") {
				c["uffd in "+name]++
			}
			if counted(name) {
				c["fd of "+name+" "+pattern(what)]++
			}
		}
	}
	return nil
}

// PIDs are the host's numbers of all processes of a node, those of its pods too: all below its cgroup.
func PIDs(n *lab.Node) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cgroups, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if err == nil && strings.Contains(string(cgroups), ":/"+n.Cgroup()+"/") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
