package filetree

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What a caller decides by. Every error of this package that is one of these wraps it and names the path.
var (
	// ErrNotOverlay: the directory is not the mount point of an overlay, so that it has no upper directory.
	ErrNotOverlay = errors.New("not an overlay mount: give the container's root file system as the overlayfs snapshotter mounts it")
	// ErrUnsupportedOverlay: the overlay keeps part of a file or directory elsewhere than in its upper directory.
	ErrUnsupportedOverlay = errors.New("overlay feature not supported: mount the container's root file system with metacopy=off,redirect_dir=off,index=off")
	// ErrNotFrozen: SyncFrozen saw a file change while it was copied.
	ErrNotFrozen = errors.New("the tree is still being written to: freeze every process that can write to it first")
	// ErrBroken: an earlier call of the same Source or Applier failed, so that the two sides may differ.
	ErrBroken = errors.New("an earlier failure left source and destination apart: start both again")
	// ErrRecord: a record breaks the bounds or the form that AppendRecord documents, or comes where it cannot.
	ErrRecord = errors.New("invalid file record")
	// ErrLimit: the record would take the destination above ApplyOptions.MaxBytes or MaxEntries, or the source's tree has a
	// path or attributes larger than a record may carry.
	ErrLimit = errors.New("limit of the file copy reached")
	// ErrNoSpace: the destination's file system is full, or a quota is.
	ErrNoSpace = errors.New("no space at the destination: free some, or raise the quota")
	// ErrDevice: a device node came and ApplyOptions.AllowDevices is false.
	ErrDevice = errors.New("device nodes are not allowed here")
	// ErrDiverged: the destination does not hold what earlier records put there.
	ErrDiverged = errors.New("the destination is not what the source has sent")
	// ErrNoOpenat2: the kernel or a seccomp filter has no openat2, without which no path can be resolved safely.
	ErrNoOpenat2 = errors.New("openat2 is missing: Linux 5.6 or later is needed")
)

// pathError names the operation and the path, and says so if the disk is full.
func pathError(op, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%s %q: %w (%w)", op, path, ErrNoSpace, err)
	}
	return fmt.Errorf("%s %q: %w", op, path, err)
}

// gone says that a name no longer leads to what the scan saw there, which is ordinary in a tree that is being written to.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) ||
		errors.Is(err, unix.ESTALE) || errors.Is(err, unix.EXDEV)
}
