package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"godwit.dev/godwit/test/lab/nodeinit"
)

// clientCgroup is where clients are, each in one of its own.
const clientCgroup = "godwit-lab-clients"

// BeClient has this process, and whatever it starts that is not a node's, weigh as much on the processors as the nodes of a lab do: who
// talks with a pod is on a machine of its own. In a cgroup without weight it would wait for all that the nodes have to do, for a third of a
// second at a time, and take that for the pod's. The returned function puts it back where it was, and has to be called before the process ends.
func BeClient() (leave func() error, err error) {
	all := hierarchies()
	for _, h := range all {
		if !h.v2 && !slices.Contains(strings.Split(h.options, ","), "cpu") || h.v2 && !unifiedOnly(all) {
			continue
		}
		return h.beClient()
	}
	return nil, errors.New("client's cgroup: this machine has no cgroup hierarchy with the controller cpu")
}

// beClient moves this process to a cgroup of its own in the hierarchy.
func (h hierarchy) beClient() (leave func() error, err error) {
	before, err := h.ownCgroup()
	if err != nil {
		return nil, err
	}
	parent := filepath.Join(h.mount, clientCgroup)
	dir := filepath.Join(parent, strconv.Itoa(os.Getpid()))
	for _, d := range []string{parent, dir} {
		if h.v2 {
			nodeinit.PassControllers(filepath.Dir(d))
		}
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("client's cgroup: %w", err)
		}
	}
	weighCgroup(clientCgroup)
	if err := enterCgroup(dir); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	return func() error {
		err := errors.Join(enterCgroup(before), os.Remove(dir))
		_ = os.Remove(parent) // unless another client is in it
		return err
	}, nil
}

// enterCgroup moves this process.
func enterCgroup(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter cgroup: %w", err)
	}
	return nil
}

// ownCgroup is the directory of the cgroup that this process is in (cgroups(7), /proc/PID/cgroup).
func (h hierarchy) ownCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) == 3 && (h.v2 && part[1] == "" || !h.v2 && slices.Contains(strings.Split(part[1], ","), "cpu")) {
			return filepath.Join(h.mount, part[2]), nil
		}
	}
	return "", fmt.Errorf("client's cgroup: this process is in none of %s", h.mount)
}
