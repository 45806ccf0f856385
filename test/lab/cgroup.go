package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/pace"
)

// cgroupRoot is where the hierarchies of this machine are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is one mounted cgroup tree of the host: several with version 1, one with version 2, both on a hybrid machine.
type hierarchy struct {
	mount   string // /sys/fs/cgroup/memory
	v2      bool
	options string // what mount needs to get the same tree again: "memory", "none,name=systemd"
}

// hierarchies reads them from mountinfo; each tree once, only those below cgroupRoot.
func hierarchies() []hierarchy {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []hierarchy
	for s := bufio.NewScanner(f); s.Scan(); {
		h, ok := parseHierarchy(s.Text())
		if !ok || slices.ContainsFunc(all, func(o hierarchy) bool { return o.v2 == h.v2 && o.options == h.options }) {
			continue
		}
		all = append(all, h)
	}
	return all
}

// parseHierarchy reads one line of mountinfo; false if it is no cgroup mount of ours.
func parseHierarchy(line string) (hierarchy, bool) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 5 || len(r) < 3 {
		return hierarchy{}, false
	}
	mount := l[4]
	if mount != cgroupRoot && !strings.HasPrefix(mount, cgroupRoot+"/") {
		return hierarchy{}, false
	}
	switch r[0] {
	case "cgroup2":
		return hierarchy{mount: mount, v2: true}, true
	case "cgroup":
		return hierarchy{mount: mount, options: v1Options(r[2])}, true
	}
	return hierarchy{}, false
}

// v1Options keeps of a superblock's options those that name the hierarchy.
func v1Options(super string) string {
	var keep []string
	for o := range strings.SplitSeq(super, ",") {
		switch {
		case o == "rw" || o == "ro" || o == "xattr" || o == "clone_children" || o == "noprefix" || o == "cpuset_v2_mode" ||
			o == "favordynmods" || strings.HasPrefix(o, "release_agent="):
		case strings.HasPrefix(o, "name="):
			keep = append(keep, "none", o)
		default:
			keep = append(keep, o)
		}
	}
	return strings.Join(keep, ",")
}

// unifiedOnly says whether the machine has cgroup version 2 alone: then controllers must be passed on level by level.
func unifiedOnly(all []hierarchy) bool { return len(all) == 1 && all[0].v2 }

// nodeCgroupMounts are the mounts that a node makes for itself, inside its cgroup namespace.
func nodeCgroupMounts(all []hierarchy) []nodeinit.CgroupMount {
	var mounts []nodeinit.CgroupMount
	for _, h := range all {
		rel, _ := filepath.Rel(cgroupRoot, h.mount)
		mounts = append(mounts, nodeinit.CgroupMount{Dir: rel, V2: h.v2, Options: h.options})
	}
	return mounts
}

// cgroupLinks are the symbolic links beside the hierarchies, such as cpu -> cpu,cpuacct.
func cgroupLinks() map[string]string {
	links := map[string]string{}
	entries, _ := os.ReadDir(cgroupRoot)
	for _, e := range entries {
		if e.Type() != fs.ModeSymlink {
			continue
		}
		if to, err := os.Readlink(filepath.Join(cgroupRoot, e.Name())); err == nil {
			links[e.Name()] = to
		}
	}
	return links
}

// makeCgroup makes path in every hierarchy and returns the directories.
func makeCgroup(path string) ([]string, error) {
	all := hierarchies()
	if len(all) == 0 {
		return nil, fmt.Errorf("cgroup %s: no cgroup hierarchy is mounted below %s", path, cgroupRoot)
	}
	var dirs []string
	for _, h := range all {
		dir := h.mount
		for _, part := range strings.Split(path, "/") {
			if unifiedOnly(all) {
				nodeinit.PassControllers(dir)
			}
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, fmt.Errorf("cgroup: %w", err)
			}
			if err := nodeinit.InheritCpuset(dir); err != nil {
				return nil, fmt.Errorf("cgroup %s: %w", dir, err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// weighCgroup gives the lab's cgroup as much CPU as its nodes would have if each were a machine: without it all nodes
// together weigh as much as one thread of a load generator on the host.
func weighCgroup(path string) {
	for _, h := range hierarchies() {
		_ = os.WriteFile(filepath.Join(h.mount, path, "cpu.shares"), []byte("16384"), 0)
		_ = os.WriteFile(filepath.Join(h.mount, path, "cpu.weight"), []byte("1600"), 0)
	}
}

// cgroupPIDs lists the processes in path and below, over all hierarchies.
func cgroupPIDs(path string) []int {
	seen := map[int]bool{}
	for _, h := range hierarchies() {
		walkCgroups(filepath.Join(h.mount, path), func(dir string) {
			b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for f := range strings.FieldsSeq(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
					seen[pid] = true
				}
			}
		})
	}
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	return pids
}

// thawCgroup lets everything below path run: a task frozen by cgroup version 1 does not die of a SIGKILL.
func thawCgroup(path string) {
	for _, h := range hierarchies() {
		walkCgroups(filepath.Join(h.mount, path), func(dir string) {
			_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
			_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0)
		})
	}
}

// walkCgroups calls f for dir and everything below, children first.
func walkCgroups(dir string, f func(dir string)) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			walkCgroups(filepath.Join(dir, e.Name()), f)
		}
	}
	f(dir)
}

// removeCgroup removes path and everything below in all hierarchies. A cgroup stays busy for a moment after its last task
// has ended, and nothing tells when that is over.
func removeCgroup(path string) error {
	deadline := time.Now().Add(pace.Stretch(30 * time.Second))
	for {
		var last error
		for _, h := range hierarchies() {
			walkCgroups(filepath.Join(h.mount, path), func(dir string) {
				if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
					last = fmt.Errorf("remove cgroup %s: %w", dir, err)
				}
			})
		}
		if last == nil || time.Now().After(deadline) {
			return last
		}
		time.Sleep(5 * time.Millisecond)
	}
}
