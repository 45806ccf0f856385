package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mountTmpfs mounts an empty tmpfs of at most limit bytes on dir.
//
// Its pages come in folios as large as what is written at once, from Linux 6.14 on
// (mm/shmem.c, shmem_huge_global_enabled: a write that ends at the file's end takes
// no folio that reaches over it). Allocating pages one by one takes twice the time
// of the copy itself, in folios of 128 KiB a tenth of it. Folios are never larger
// than the write, which a file that grows ahead of its pages would allow: the rest
// of those would be cleared first, and on a virtual machine 2 MiB that nobody has
// used for some seconds come from the host, at 0.3 GB/s.
func mountTmpfs(dir string, limit int64) error {
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err != nil {
		left, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			return fmt.Errorf("%s is not empty: clean up what another store left there", dir)
		}
	}
	const flags = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	data := fmt.Sprintf("mode=0700,size=%d,huge=within_size", limit)
	if err := unix.Mount("godwit-store", dir, "tmpfs", flags, data); err != nil {
		return errors.Join(fmt.Errorf("mount a tmpfs on %s: %w", dir, err), os.Remove(dir))
	}
	return nil
}

// unmount takes all mounts off dir, at once where nothing uses them, and
// otherwise as soon as nothing does.
func unmount(dir string) error {
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // no mount point, or no longer one
		default:
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}

// Cleanup removes the store that a process left in dir, mounted or not. That
// there is nothing is no error. What lies in dir beneath the mount is not the
// store's and makes it fail.
func Cleanup(dir string) error {
	if err := unmount(dir); err != nil {
		return fmt.Errorf("clean up store: %w", err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clean up store: %w", err)
	}
	return nil
}
