package shim

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// sharedMemory is where a pod's containers have its shared memory, which is copied.
const sharedMemory = "/dev/shm"

// othersWrite says whether a file of a container may be written to while the pod is
// frozen: one that is mounted into it from outside, by a volume that other pods have as
// well for example, and that is not copied.
func othersWrite(file string, mounts []specs.Mount, copied []string) bool {
	at := ""
	for _, m := range mounts {
		point := path.Clean(m.Destination)
		if m.Type == "bind" && len(point) >= len(at) && (file == point || strings.HasPrefix(file, strings.TrimSuffix(point, "/")+"/")) {
			at = point
		}
	}
	return at != "" && at != sharedMemory && !slices.Contains(copied, at)
}
