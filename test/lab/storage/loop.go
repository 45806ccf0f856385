package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// freedAfter is how often it is looked whether a loop device has let go: nothing tells of it.
const freedAfter = 5 * time.Millisecond

// openLoop gives a free loop device an image. It is open; once nobody has it open and nothing of it is mounted, the kernel
// frees it by itself: when a node dies its mounts go, and the device with them.
func openLoop(image string) (*os.File, error) {
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop device: %w", err)
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop device: %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("loop device: %w", err)
		}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was faster
			return nil, fmt.Errorf("give %s to %s: %w", image, loop.Name(), err)
		}
	}
}

// loopsOf lists the loop devices that have an image. It is known by its inode, for each machine sees it under a path of its own.
func loopsOf(image string) ([]string, error) {
	var want unix.Stat_t
	if err := unix.Stat(image, &want); err != nil {
		return nil, &os.PathError{Op: "stat", Path: image, Err: err}
	}
	return loopsWhere(func(info *unix.LoopInfo64) bool { return info.Device == want.Dev && info.Inode == want.Ino })
}

func loopsWhere(is func(*unix.LoopInfo64) bool) ([]string, error) {
	names, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range names {
		loop, err := os.Open(name)
		if err != nil {
			continue // removed meanwhile
		}
		info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
		loop.Close()
		if err == nil && is(info) { // a free one has none
			found = append(found, name)
		}
	}
	return found, nil
}

// awaitFree waits until no loop device has an image, or ctx ends: the last unmount frees it.
func (p Pool) awaitFree(ctx context.Context, volume string) error {
	for {
		err := p.free(volume)
		if err == nil || !errors.Is(err, ErrMounted) {
			return err
		}
		select {
		case <-time.After(freedAfter):
		case <-ctx.Done():
			return err
		}
	}
}

// Close waits until no loop device has an image of the pool. The machines are gone, and with them all mounts; a device that
// somebody still has is an error. A pool that does not exist has none.
func (p Pool) Close(ctx context.Context) error {
	images, err := filepath.Glob(filepath.Join(p.dir, "*", "disk.img"))
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	var errs []error
	for _, image := range images {
		errs = append(errs, p.awaitFree(ctx, filepath.Base(filepath.Dir(image))))
	}
	return errors.Join(errs...)
}
