package shim

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sysvKinds are the lists of a namespace's System V objects (kernel: ipc/shm.c, sem.c,
// msg.c), and how one of them is removed.
var sysvKinds = []struct {
	list   string
	remove func(id int) error
}{
	{"/proc/sysvipc/shm", func(id int) error { _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); return err }},
	{"/proc/sysvipc/sem", func(id int) error { return control(unix.SYS_SEMCTL, id, 0, unix.IPC_RMID) }},
	{"/proc/sysvipc/msg", func(id int) error { return control(unix.SYS_MSGCTL, id, unix.IPC_RMID, 0) }},
}

// control is semctl(2) or msgctl(2), whose arguments differ in their order.
func control(call uintptr, id, second, third int) error {
	if _, _, errno := unix.Syscall6(call, uintptr(id), uintptr(second), uintptr(third), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// sysvObjects are the ids of System V objects, of each kind.
type sysvObjects [][]int

// hasSysV says whether images make System V objects.
func hasSysV(images string) bool {
	for _, pattern := range sysvImages {
		if found, err := filepath.Glob(filepath.Join(images, pattern)); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

// listSysV lists the objects of a process' IPC namespace; of the node's own it lists
// none, as they are not the pod's.
func listSysV(pid int) (objects sysvObjects, err error) {
	err = inNamespace(pid, ipcNamespace, func() error {
		for _, k := range sysvKinds {
			ids, err := sysvIDs(k.list)
			if err != nil {
				return err
			}
			objects = append(objects, ids)
		}
		return nil
	})
	return objects, err
}

// removeSysV removes objects of a process' IPC namespace, those that are there still.
func removeSysV(pid int, objects sysvObjects) error {
	return inNamespace(pid, ipcNamespace, func() error {
		var all error
		for i, ids := range objects {
			for _, id := range ids {
				if err := sysvKinds[i].remove(id); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIDRM) {
					all = errors.Join(all, fmt.Errorf("remove System V object %d of %s: %w", id, sysvKinds[i].list, err))
				}
			}
		}
		return all
	})
}

// sysvIDs reads a list: a line of titles, then one of each object, its id second.
func sysvIDs(list string) (ids []int, err error) {
	f, err := os.Open(list)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without them
	}
	if err != nil {
		return nil, fmt.Errorf("list System V objects: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		id, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("list System V objects: %s: %w", list, err)
		}
		ids = append(ids, id)
	}
	return ids, lines.Err()
}
