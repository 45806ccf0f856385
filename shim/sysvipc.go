package shim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// System V IPC objects belong to the pod's IPC namespace, and CRIU dumps all of
// them with each container. On restore it makes them again in the new sandbox's
// namespace, which works once: the containers that come second would find them
// there and fail. So one container's images keep them. It has to be the one that
// has segments attached, as CRIU can attach only what it made (criu/shmem.c,
// open_shmem_sysv).

// sysvMapping is how an attached segment's area begins its path in maps
// (kernel: ipc/shm.c, newseg).
var sysvMapping = []byte("/SYSV")

// sysvImages are the images of the objects.
var sysvImages = []string{"ipcns-shm-*.img", "ipcns-sem-*.img", "ipcns-msg-*.img"}

// sysvOwner chooses the container that takes the pod's System V objects along.
func (s *source) sysvOwner() (*departure, error) {
	if s.containers[0].inNamespaces {
		return s.containers[0], nil // there are none
	}
	var owner *departure
	for _, c := range s.containers {
		attached, err := c.attachesSysV()
		if err != nil {
			return nil, err
		}
		if attached && owner != nil {
			return nil, fmt.Errorf("containers %s and %s both have System V shared memory attached, which CRIU restores for one container only", owner.id, c.id)
		}
		if attached {
			owner = c
		}
	}
	if owner == nil {
		owner = s.containers[0]
	}
	return owner, nil
}

// attachesSysV says whether a process of the container has a segment attached.
func (d *departure) attachesSysV() (bool, error) {
	pids, err := d.processes()
	if err != nil {
		return false, err
	}
	for _, pid := range pids {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return false, fmt.Errorf("memory map of process %d: %w", pid, err)
		}
		if bytes.Contains(maps, sysvMapping) {
			return true, nil
		}
	}
	return false, nil
}

// withoutSysV adds the images of System V objects to those that are not sent.
func (d *departure) withoutSysV(skip []string) ([]string, error) {
	if d.inNamespaces {
		return skip, nil
	}
	for _, pattern := range sysvImages {
		paths, err := filepath.Glob(filepath.Join(d.images, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			skip = append(skip, filepath.Base(path))
		}
	}
	return skip, nil
}
