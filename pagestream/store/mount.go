package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mountTmpfs mounts an empty tmpfs of at most limit bytes on dir.
//
// It has single pages. Huge ones are four times as fast to write where the
// memory was in use a moment ago, and four times as slow where it is fresh: the
// kernel clears all of a huge page before the first part of it is written, and on
// a virtual machine each of them has to come from the host first (1.4 against
// 0.35 GB/s). The store of a migration is fresh memory.
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
	data := fmt.Sprintf("mode=0700,size=%d", limit)
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
