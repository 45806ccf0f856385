package nodecontroller

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// availableMemory is what the kernel says could be used without swapping, bytes.
func availableMemory() (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("available memory: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib uint64
		if strings.HasPrefix(s.Text(), "MemAvailable:") {
			if _, err := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kib); err != nil {
				return 0, fmt.Errorf("available memory: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("available memory: /proc/meminfo has no MemAvailable")
}

// resident is what a store's tmpfs takes, bytes; 0 if there is none.
func resident(dir string) uint64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		return 0
	}
	return (st.Blocks - st.Bfree) * uint64(st.Bsize)
}

// group is the memory cgroup that leaves a process the least; without a path there is no
// limit. A store counts against that of the daemon, which writes it.
type group struct {
	path string
	left uint64 // bytes, with what could be reclaimed of its files
}

// cgroupRoot is where cgroups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// groupFiles are the names of one version of the memory controller.
type groupFiles struct{ limit, usage, reclaimable string }

var (
	unified = groupFiles{"memory.max", "memory.current", "inactive_file"}
	legacy  = groupFiles{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}
)

// ownGroup finds this process' memory cgroup below root, where cgroups are mounted.
func ownGroup(root string) (group, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return group{}, fmt.Errorf("memory cgroup: %w", err)
	}
	if at, ok := cgroupPath(string(b), "memory"); ok {
		return tightest(os.DirFS(filepath.Join(root, "memory")), at, legacy)
	}
	at, _ := cgroupPath(string(b), "")
	return tightest(os.DirFS(root), at, unified)
}

// cgroupPath is a process' path in the hierarchy of a controller, by its /proc/PID/cgroup;
// the unified hierarchy's controller is empty.
func cgroupPath(text, controller string) (string, bool) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			if c == controller {
				return f[2], true
			}
		}
	}
	return "/", false
}

// tightest is the cgroup, from the one at a path up to the root, that leaves the least.
// One that cannot be seen from here has no say.
func tightest(root fs.FS, at string, files groupFiles) (group, error) {
	var least group
	for at = path.Clean("/" + at); ; at = path.Dir(at) {
		left, limited, err := leftIn(root, strings.TrimPrefix(at, "/"), files)
		if err != nil {
			return group{}, fmt.Errorf("memory cgroup %s: %w", at, err)
		}
		if limited && (least.path == "" || left < least.left) {
			least = group{path: at, left: left}
		}
		if at == "/" {
			return least, nil
		}
	}
}

// unlimited is what version 1 says without a limit, or more.
const unlimited = 1 << 62

// leftIn is what a cgroup leaves of its limit, if it has one.
func leftIn(root fs.FS, dir string, files groupFiles) (left uint64, limited bool, err error) {
	read := func(name string) (string, error) {
		b, err := fs.ReadFile(root, path.Join(dir, name))
		return strings.TrimSpace(string(b)), err
	}
	text, err := read(files.limit)
	if errors.Is(err, fs.ErrNotExist) || text == "max" {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	limit, err := strconv.ParseUint(text, 10, 64)
	if err != nil || limit >= unlimited {
		return 0, false, err
	}
	if text, err = read(files.usage); err != nil {
		return 0, false, err
	}
	usage, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, false, err
	}
	if text, err = read("memory.stat"); err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(text) {
		if name, n, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == files.reclaimable {
			bytes, err := strconv.ParseUint(n, 10, 64)
			if err != nil {
				return 0, false, err
			}
			usage -= min(usage, bytes)
		}
	}
	return limit - min(limit, usage), true, nil
}
