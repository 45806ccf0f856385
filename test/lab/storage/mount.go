package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// stage mounts a volume on a node that it is attached to, at a directory that is there. One that is mounted there stays.
func (p Pool) stage(ctx context.Context, volume, node, target string) error {
	unlock, kind, err := p.lock(ctx, volume)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(p.path(volume, "attached", node)); err != nil {
		return fmt.Errorf("volume %s on node %s: %w", volume, node, ErrNotAttached)
	}
	mounted, err := mountinfo.Mounted(target)
	if err != nil {
		return fmt.Errorf("mount volume %s: %w", volume, err)
	}
	if mounted {
		return nil
	}
	if kind == Share {
		return bindMount(p.content(volume), target, false)
	}
	// A node that died may have had it mounted: its file system takes a moment to end.
	if err := p.free(volume); err != nil {
		return err
	}
	loop, err := openLoop(p.image(volume))
	if err != nil {
		return fmt.Errorf("mount volume %s: %w", volume, err)
	}
	defer loop.Close() // the mount has it open by then
	if err := unix.Mount(loop.Name(), target, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount volume %s: %w", volume, err)
	}
	return nil
}

// unstage ends what stage did. When it returns without an error, a disk is written and no file system of it is mounted in any
// mount namespace of the machine.
func (p Pool) unstage(ctx context.Context, volume, target string) error {
	kind, err := p.kind(volume)
	if err != nil {
		return err
	}
	if err := unmount(target); err != nil {
		return fmt.Errorf("volume %s: %w", volume, err)
	}
	if kind == Share {
		return nil
	}
	return p.awaitFree(ctx, volume)
}

// publish shows a pod what is mounted at staging.
func publish(staging, target string, readOnly bool) error {
	mounted, err := mountinfo.Mounted(staging)
	if err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	if !mounted { // a pod would write into the directory below
		return fmt.Errorf("mount %s: no volume is mounted at %s", target, staging)
	}
	return bindMount(staging, target, readOnly)
}

// unpublish ends what publish did, and removes the mount point.
func unpublish(target string) error {
	if err := unmount(target); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mount point: %w", err)
	}
	return nil
}

// bindMount shows a directory at another, which is made if it is not there. One that is mounted stays.
func bindMount(source, target string, readOnly bool) error {
	if err := os.MkdirAll(target, 0o750); err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	mounted, err := mountinfo.Mounted(target)
	if err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	if !mounted {
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s to %s: %w", source, target, err)
		}
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s read-only: %w", target, err)
	}
	return nil
}

// unmount unmounts what is mounted at a directory, if anything is. What is in use stays, and is an error.
func unmount(target string) error {
	mounted, err := mountinfo.Mounted(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	if !mounted {
		return nil
	}
	if err := unix.Unmount(target, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}
