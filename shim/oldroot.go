package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// CRIU gives a container its root file system by pivot_root, for which it needs a directory in there: /tmp, and where an image has none, one that
// it makes and removes (criu/mount.c, cr_pivot_root). Both go through to a disk while the pod stands still: half a millisecond of a processor for
// each container. So one is made before the freeze, and is gone before the container runs.

// oldRoot is a directory that was made for that.
type oldRoot struct {
	path string
	// dir is held open: where layers lie on several file systems, a directory of an overlay has its number only as long as somebody knows it.
	dir  *os.File
	made unix.Stat_t
}

// makeOldRoot makes it in a root file system, or returns nil if that has one.
func makeOldRoot(rootfs string) (*oldRoot, error) {
	path := filepath.Join(rootfs, "tmp")
	if err := os.Mkdir(path, 0o700); errors.Is(err, os.ErrExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("directory for CRIU: %w", err), os.Remove(path))
	}
	r := &oldRoot{path: path, dir: os.NewFile(uintptr(fd), path)}
	if err := unix.Fstat(fd, &r.made); err != nil {
		return nil, errors.Join(fmt.Errorf("directory for CRIU: %w", err), r.dir.Close(), os.Remove(path))
	}
	return r, nil
}

// remove takes it away, if there is one, unless it has become the container's: the pod may have made one at its source, which has brought its own
// attributes, and what is in it. It may be called again.
func (r *oldRoot) remove() error {
	if r == nil || r.dir == nil {
		return nil
	}
	defer func() {
		r.dir.Close()
		r.dir = nil
	}()
	var now unix.Stat_t
	if err := unix.Lstat(r.path, &now); err != nil || now.Ino != r.made.Ino || now.Dev != r.made.Dev || now.Ctim != r.made.Ctim {
		return nil
	}
	if err := unix.Rmdir(r.path); err != nil {
		return fmt.Errorf("remove the directory that was made for CRIU: %w", err)
	}
	return nil
}
