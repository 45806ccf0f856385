package tmpfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

const (
	// MaxMounts is how many of a container's mounts are carried; more stay CRIU's.
	MaxMounts = 16
	// maxList bounds what a peer says of a container's mounts, bytes.
	maxList = 16 << 10
)

// ErrMalformed is wrapped by the error for a list of mounts that nobody would have made.
var ErrMalformed = errors.New("malformed list of mounts")

// Mount is a tmpfs of a container.
type Mount struct {
	// Path is where the container's processes see it.
	Path string `json:"path"`
	// Options of its file system, as mountinfo has them.
	Options []string `json:"options"`
	// Device is its number at the source, "major:minor".
	Device string `json:"-"`
}

// plainPath is a path that needs no quoting, neither in mountinfo nor in CRIU's options.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._-]+$`)

// valid says what is wrong with a mount.
func (m Mount) valid() error {
	if !plainPath.MatchString(m.Path) || path.Clean(m.Path) != m.Path {
		return fmt.Errorf("%w: path %q", ErrMalformed, m.Path)
	}
	for _, o := range m.Options {
		if _, _, err := parseOption(o); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrMalformed, m.Path, err)
		}
	}
	return nil
}

// optionValues are the options that are carried, and what they may be; a nil one has no value.
var optionValues = map[string]*regexp.Regexp{
	"size":      regexp.MustCompile(`^[0-9]{1,15}[kmg%]?$`),
	"nr_blocks": regexp.MustCompile(`^[0-9]{1,15}[kmg]?$`),
	"nr_inodes": regexp.MustCompile(`^[0-9]{1,15}[kmg]?$`),
	"mode":      regexp.MustCompile(`^[0-7]{1,4}$`),
	"uid":       regexp.MustCompile(`^[0-9]{1,10}$`),
	"gid":       regexp.MustCompile(`^[0-9]{1,10}$`),
	"huge":      regexp.MustCompile(`^(never|always|within_size|advise)$`),
	"inode64":   nil,
	"inode32":   nil,
	"ro":        nil,
	"rw":        nil,
}

// parseOption splits an option of a tmpfs. One that is not known is an error: the file system would not be the same.
func parseOption(option string) (name, value string, err error) {
	name, value, has := strings.Cut(option, "=")
	form, known := optionValues[name]
	if !known || has != (form != nil) || form != nil && !form.MatchString(value) {
		return "", "", fmt.Errorf("option %q of a tmpfs is not known", option)
	}
	return name, value, nil
}

// Encode writes a list of mounts for Decode on another node.
func Encode(mounts []Mount) (string, error) {
	b, err := json.Marshal(mounts)
	if err != nil {
		return "", fmt.Errorf("encode mounts: %w", err)
	}
	return string(b), nil
}

// Decode reads what Encode has written, a peer's word.
func Decode(list string) ([]Mount, error) {
	if len(list) > maxList {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(list))
	}
	var mounts []Mount
	if err := json.Unmarshal([]byte(list), &mounts); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(mounts) > MaxMounts {
		return nil, fmt.Errorf("%w: %d mounts", ErrMalformed, len(mounts))
	}
	for _, m := range mounts {
		if err := m.valid(); err != nil {
			return nil, err
		}
	}
	return mounts, nil
}

// Find lists the tmpfs mounts that a container has of its own: those of the mount namespace of its first process that are
// nowhere in this process's, and whose like can be made elsewhere.
func Find(pid int) ([]Mount, error) {
	if same, err := sameNamespace(pid, "user"); err != nil || !same {
		return nil, err // what is mounted in there has owners of its own
	}
	theirs, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("mounts of process %d: %w", pid, err)
	}
	ours, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("mounts of the node: %w", err)
	}
	return own(string(theirs), string(ours)), nil
}

// sameNamespace says whether a process is in this one's namespace of a kind.
func sameNamespace(pid int, kind string) (bool, error) {
	ours, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		return false, fmt.Errorf("%s namespace: %w", kind, err)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return false, fmt.Errorf("%s namespace of process %d: %w", kind, pid, err)
	}
	return ours == theirs, nil
}

// entry is a line of mountinfo (proc_pid_mountinfo(5)).
type entry struct {
	device, root, path, kind string
	options                  []string
	shared                   bool // propagates, or is propagated to
}

func parseEntry(line string) (entry, bool) {
	left, right, ok := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if !ok || len(l) < 6 || len(r) < 3 {
		return entry{}, false
	}
	return entry{device: l[2], root: l[3], path: l[4], kind: r[0], options: strings.Split(r[2], ","), shared: len(l) > 6}, true
}

// barren says whether a file system can hold nothing but its root: runc masks all directories of /proc and /sys that kubelet
// names with one such (runc: libcontainer/rootfs_linux.go, maskDir).
func barren(options []string) bool {
	return slices.Contains(options, "ro") && slices.Contains(options, "nr_inodes=1")
}

// own is Find on the texts of two mountinfo files. A mount is left to CRIU if it is not the only whole one of its file system, which
// only one that can hold nothing may be several of, if another lies at the same place, and if it propagates: CRIU would ask the same
// of what is bound in its stead.
func own(theirs, ours string) []Mount {
	outside := map[string]bool{}
	for line := range strings.Lines(ours) {
		if e, ok := parseEntry(line); ok {
			outside[e.device] = true
		}
	}
	whole, at := map[string]int{}, map[string]int{}
	var found []entry
	for line := range strings.Lines(theirs) {
		e, ok := parseEntry(line)
		if !ok {
			continue
		}
		at[e.path]++
		if e.root == "/" {
			whole[e.device]++
			found = append(found, e)
		}
	}
	var mounts []Mount
	for _, e := range found {
		m := Mount{Path: e.path, Options: e.options, Device: e.device}
		if e.kind != "tmpfs" || e.shared || outside[e.device] || whole[e.device] > 1 && !barren(e.options) || at[e.path] > 1 || m.valid() != nil {
			continue
		}
		if mounts = append(mounts, m); len(mounts) == MaxMounts {
			break
		}
	}
	return mounts
}
