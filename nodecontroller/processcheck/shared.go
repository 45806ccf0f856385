package processcheck

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// SharedMemory is what containers have of memory that CRIU restores by itself from files,
// shared memory and huge pages, bytes: a destination has it twice until the pod runs there.
// Of each container the process counts that has the most, as others mostly have the same.
func SharedMemory(containers []Container) (uint64, error) {
	var sum uint64
	for _, c := range containers {
		tree, err := descendants(c.PID)
		if err != nil {
			return 0, fmt.Errorf("shared memory of container %s: %w", c.Name, err)
		}
		var most uint64
		for _, pid := range tree {
			b, err := os.ReadFile(proc(pid, "status"))
			if gone(err) {
				continue
			}
			shared, perr := sharedOf(string(b))
			if err := errors.Join(err, perr); err != nil {
				return 0, fmt.Errorf("shared memory of process %d: %w", pid, err)
			}
			most = max(most, shared)
		}
		sum += most
	}
	return sum, nil
}

// sharedOf reads a /proc/PID/status.
func sharedOf(status string) (bytes uint64, err error) {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name != "RssShmem" && name != "HugetlbPages" {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		bytes += kib << 10
	}
	return bytes, nil
}
