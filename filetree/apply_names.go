package filetree

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// lstat looks at a name without following it; found is false if nothing is there.
func (at place) lstat() (st unix.Stat_t, found bool, err error) {
	err = unix.Fstatat(at.dir, at.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return st, false, nil
	}
	return st, err == nil, err
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// remove makes the name free.
func (a *Applier) remove(at place) error {
	st, found, err := at.lstat()
	if err != nil || !found {
		return err
	}
	return a.touching(at, func() error { return a.removeEntry(at.dir, at.name, &st) })
}

// removeEntry removes a name and what is below it.
func (a *Applier) removeEntry(dir int, name string, st *unix.Stat_t) error {
	flags := 0
	if isDir(st) {
		if err := a.emptyDir(dir, name); err != nil {
			return err
		}
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(dir, name, flags); err != nil {
		return err
	}
	a.usage.removed(st)
	return nil
}

// emptyDir removes everything in a directory.
func (a *Applier) emptyDir(dir int, name string) error {
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := readNames(fd, make([]byte, 8<<10))
	if err != nil {
		return err
	}
	for _, n := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if err := a.removeEntry(fd, n, &st); err != nil {
			return err
		}
	}
	return nil
}

// directory makes the name a directory: the one that it is, or an empty one.
func (a *Applier) directory(at place, r *Record) error {
	st, found, err := at.lstat()
	if err != nil {
		return err
	}
	if found && (!isDir(&st) || r.Opaque) {
		if err := a.remove(at); err != nil {
			return err
		}
		found = false
	}
	if !found {
		if err := a.make(at, func() error { return unix.Mkdirat(at.dir, at.name, 0o700) }); err != nil {
			return err
		}
	}
	return a.directoryMeta(at.dir, at.name, at.path, &r.Meta)
}

// make runs create, which makes the free name, and counts what it made.
func (a *Applier) make(at place, create func() error) error {
	if err := a.usage.room(); err != nil {
		return err
	}
	if err := a.touching(at, create); err != nil {
		return err
	}
	st, found, err := at.lstat()
	if err == nil && !found {
		err = ErrDiverged
	}
	if err == nil {
		a.usage.made(&st)
	}
	return err
}

// special makes a symbolic link, fifo, socket or device.
func (a *Applier) special(at place, r *Record) error {
	device := r.NodeType == unix.S_IFCHR || r.NodeType == unix.S_IFBLK
	if r.Type == TypeNode && device && !a.opts.AllowDevices {
		return ErrDevice
	}
	if err := a.remove(at); err != nil {
		return err
	}
	err := a.make(at, func() error {
		if r.Type == TypeSymlink {
			return unix.Symlinkat(r.Target, at.dir, at.name)
		}
		return unix.Mknodat(at.dir, at.name, r.NodeType|0o600, int(unix.Mkdev(r.Major, r.Minor)))
	})
	if err != nil {
		return err
	}
	return a.meta(at, &r.Meta)
}

// another gives the file at the target the name, as one more or instead.
func (a *Applier) another(at place, r *Record) error {
	fromPath, fromName := splitPath(r.Target)
	fromDir, err := a.openDir(fromPath)
	if err != nil {
		return err
	}
	defer unix.Close(fromDir)
	from := place{path: r.Target, dir: fromDir, name: fromName}
	st, found, err := from.lstat()
	if err != nil {
		return err
	}
	if !found || isDir(&st) || r.Target == r.Path {
		return fmt.Errorf("%w: no file at %q for it", ErrDiverged, r.Target)
	}
	if err := a.remove(at); err != nil {
		return err
	}
	if r.Type == TypeLink {
		return a.make(at, func() error { return unix.Linkat(fromDir, fromName, at.dir, at.name, 0) })
	}
	return a.touching(from, func() error {
		return a.touching(at, func() error { return unix.Renameat(fromDir, fromName, at.dir, at.name) })
	})
}

// usage counts what the records made, to hold it to the limits.
type usage struct {
	maxBytes, maxEntries int64
	bytes, entries       int64
	files                map[fileKey]fileUsage // that the records made or wrote, by inode
}

type fileKey struct{ dev, ino uint64 }

type fileUsage struct {
	names int32
	bytes int64
}

func newUsage(opts ApplyOptions) usage {
	return usage{maxBytes: opts.MaxBytes, maxEntries: opts.MaxEntries, files: make(map[fileKey]fileUsage)}
}

func keyOf(st *unix.Stat_t) fileKey { return fileKey{dev: uint64(st.Dev), ino: st.Ino} }

// room says whether one more name may be made.
func (u *usage) room() error {
	if u.maxEntries > 0 && u.entries >= u.maxEntries {
		return fmt.Errorf("%w: %d names", ErrLimit, u.maxEntries)
	}
	return nil
}

func (u *usage) made(st *unix.Stat_t) {
	f := u.files[keyOf(st)]
	f.names++
	u.files[keyOf(st)] = f
	u.entries++
}

// removed takes a name off the count if the records made it: what the image had is not theirs to gain by.
func (u *usage) removed(st *unix.Stat_t) {
	f, ok := u.files[keyOf(st)]
	if !ok {
		return
	}
	if f.names > 0 {
		f.names--
		u.entries--
	}
	if f.names > 0 {
		u.files[keyOf(st)] = f
		return
	}
	u.bytes -= f.bytes
	delete(u.files, keyOf(st))
}

// wrote takes in the blocks that a file has now.
func (u *usage) wrote(st *unix.Stat_t) {
	f := u.files[keyOf(st)]
	now := st.Blocks * 512
	u.bytes += now - f.bytes
	f.bytes = now
	u.files[keyOf(st)] = f
}

// spend says whether a file may take more bytes, for the first time or again.
func (u *usage) spend(bytes int64) error {
	if u.maxBytes > 0 && u.bytes+bytes > u.maxBytes {
		return fmt.Errorf("%w: %d bytes", ErrLimit, u.maxBytes)
	}
	return nil
}
