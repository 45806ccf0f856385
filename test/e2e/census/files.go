package census

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/nodecontroller/standstill"
	"godwit.dev/godwit/shim/criu"
	"godwit.dev/godwit/test/lab"
)

// mounts counts the node's mounts, and the memory of each tmpfs, in MiB. A directory of one that is mounted (field 4 of
// mountinfo, see proc(5)) tells nothing: the rest of that tmpfs may be anybody's, such as the machine's own files.
func (c Census) mounts(n *lab.Node) error {
	info, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(n.PID()), "mountinfo"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(info)) {
		left, right, _ := strings.Cut(line, " - ")
		f := strings.Fields(left)
		if len(f) < 5 {
			return fmt.Errorf("mountinfo: %q", line)
		}
		c["mount "+pattern(f[4])]++
		if strings.HasPrefix(right, "tmpfs ") && f[3] == "/" {
			var st unix.Statfs_t
			if err := unix.Statfs(n.Path(f[4]), &st); err == nil {
				c["tmpfs "+pattern(f[4])] += int((st.Blocks - st.Bfree) * uint64(st.Bsize) >> 20)
			}
		}
	}
	return nil
}

// trees are the directories in which something of a pod or a migration could stay. containerd's content store is not one:
// what an image brought may stay.
var trees = []string{
	"/run/godwit", "/run/containerd", "/var/lib/godwit", "/run/netns", "/var/lib/cni/networks", "/var/log/pods",
	"/var/lib/containerd/io.containerd.grpc.v1.cri", "/var/lib/containerd/io.containerd.runtime.v2.task",
	"/dev/shm", "/tmp",
}

// depth limits how far below such a directory names are counted: a root file system of a pod is not a leak.
const depth = 5

// snapshots is what snapshots are counted under.
const snapshots = "file snapshots"

// files counts names below trees, and snapshots.
func (c Census) files(n *lab.Node) error {
	for _, tree := range trees {
		root := n.Path(tree)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // it went away
			}
			rel, _ := filepath.Rel(root, path)
			if d.Name() == standstill.FileName {
				return nil // what a node learns of its moves stays, one file
			}
			if path == n.Path(criu.GuardlessDir) {
				return fs.SkipDir // and what it learns of its CRIU, one
			}
			if d.Name() == "rootfs" || strings.Count(rel, "/") >= depth {
				return fs.SkipDir
			}
			c["file "+pattern(filepath.Join(tree, rel))]++
			return nil
		})
		if err != nil {
			return err
		}
	}
	kept, _ := os.ReadDir(n.Path("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"))
	c[snapshots] = len(kept)
	return nil
}

// cgroups counts directories of the node's cgroup in every hierarchy, and those that are frozen.
func (c Census) cgroups(n *lab.Node) error {
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return err
	}
	for _, h := range append(hierarchies, "/sys/fs/cgroup") {
		if info, err := os.Lstat(h); err != nil || !info.IsDir() {
			continue // a link to another
		}
		root := filepath.Join(h, n.Cgroup())
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil
			}
			rel, _ := filepath.Rel(root, path)
			c["cgroup "+filepath.Base(h)+" "+pattern(rel)]++
			if isFrozen(path) {
				c["frozen "+pattern(rel)]++
			}
			return nil
		})
	}
	return nil
}

func isFrozen(cgroup string) bool {
	state, _ := os.ReadFile(filepath.Join(cgroup, "freezer.state"))
	frozen, _ := os.ReadFile(filepath.Join(cgroup, "cgroup.freeze"))
	return strings.HasPrefix(string(state), "FR") || strings.HasPrefix(string(frozen), "1")
}

// Frozen says whether any cgroup of a pod of the node is frozen at this moment.
func Frozen(n *lab.Node) bool {
	frozen := false
	for _, h := range []string{"/sys/fs/cgroup/freezer", "/sys/fs/cgroup"} {
		_ = filepath.WalkDir(filepath.Join(h, n.Cgroup(), "pods"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && isFrozen(path) {
				frozen = true
				return fs.SkipAll
			}
			return nil
		})
	}
	return frozen
}
