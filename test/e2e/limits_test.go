package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// limitFiles are where a container's limits are, by version of cgroups, below the mounts of the hierarchies.
var limitFiles = []struct{ hierarchy, memory, cpu string }{
	{"memory", "memory.limit_in_bytes", ""},
	{"cpu", "", "cpu.cfs_quota_us"},
	{"", "memory.max", "cpu.max"},
}

// cgroupsOf are the cgroups of a process, by hierarchy as /proc/PID/cgroup names it; version 2 is "".
func cgroupsOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for name := range strings.SplitSeq(f[1], ",") {
				all[name] = f[2]
			}
		}
	}
	return all
}

// limits are what the kernel holds a process to.
func limits(t *testing.T, pid int) map[string]string {
	t.Helper()
	all := map[string]string{}
	cgroups := cgroupsOf(t, pid)
	for _, l := range limitFiles {
		for _, name := range []string{l.memory, l.cpu} {
			if name == "" {
				continue
			}
			if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", l.hierarchy, cgroups[l.hierarchy], name)); err == nil {
				all[name] = strings.TrimSpace(string(b))
			}
		}
	}
	return all
}

// A pod that has come is held to its limits, and all of it is in its containers' cgroups: statistics, limits and the end of
// a container depend on it.
func TestAMovedPodIsInItsCgroupsAndHeldToItsLimits(t *testing.T) {
	a, b := nodes(t)
	c := container(t, workload.Ticker, workload.Port)
	c.Memory, c.MilliCPU = 64<<20, 500
	p := runPod(t, a, lab.PodSpec{Name: "limited", Containers: []lab.ContainerSpec{c}})
	before := limits(t, pidOf(t, a, workload.Ticker, ""))
	if len(before) != 2 {
		t.Fatalf("limits %v, want one of memory and one of CPU", before)
	}
	t.Log(before)
	for _, to := range []*lab.Node{b, a} {
		p.moveTo(to)
		p.check(workload.Port)
		pid := pidOf(t, to, workload.Ticker, "")
		for name, now := range limits(t, pid) {
			if now != before[name] {
				t.Errorf("on node %s %s is %s, was %s", to.Name, name, now, before[name])
			}
		}
		for hierarchy, path := range cgroupsOf(t, pid) {
			// On a hybrid machine runc leaves the version 2 hierarchy, which has no controllers there, alone.
			if hierarchy == "" && len(cgroupsOf(t, pid)) > 1 {
				continue
			}
			if filepath.Base(path) != p.Container(workload.Ticker).ID {
				t.Errorf("on node %s its cgroup of %q is %s, and the container %s", to.Name, hierarchy, path, p.Container(workload.Ticker).ID)
			}
		}
	}
}
