package filetree

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openFile is the regular file whose content is coming: from a TypeFile to the first record that is not of its content.
type openFile struct {
	fd      int // -1: none
	path    string
	size    int64
	meta    Meta
	pending int64 // bytes written since its blocks were counted
	bare    bool  // it is a new one that has not been counted, and may be shorter than it is to be
}

func (f *openFile) close() {
	if f.fd >= 0 {
		_ = unix.Close(f.fd)
	}
	*f = openFile{fd: -1}
}

// openFile creates the file of a TypeFile, or opens the one that an earlier record made, and gives it its size.
func (a *Applier) openFile(at place, r *Record) error {
	fd, err := a.openRegular(at, r.Create)
	if err != nil {
		return err
	}
	a.file = openFile{fd: fd, path: at.path, size: r.Size, meta: cloneMeta(r.Meta), bare: a.opts.Bare && r.Create}
	if r.Create && r.Size == 0 || a.file.bare {
		return nil
	}
	return unix.Ftruncate(fd, r.Size)
}

func (a *Applier) openRegular(at place, create bool) (int, error) {
	const flags = unix.O_RDWR | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	if !create {
		// A device or fifo must not even be opened.
		st, found, err := at.lstat()
		if err != nil {
			return -1, err
		}
		if !found || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return -1, fmt.Errorf("%w: not a regular file", ErrDiverged)
		}
		return unix.Openat(at.dir, at.name, flags, 0)
	}
	if a.usage.room() != nil {
		// What the name holds now makes room.
		if err := a.remove(at); err != nil {
			return -1, err
		}
		if err := a.usage.room(); err != nil {
			return -1, err
		}
	}
	fd := -1
	open := func() (err error) {
		fd, err = unix.Openat(at.dir, at.name, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
		return err
	}
	err := a.touching(at, open)
	if err == unix.EEXIST {
		if err := a.remove(at); err != nil {
			return -1, err
		}
		err = a.touching(at, open)
	}
	if err != nil || a.opts.Bare {
		return fd, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	a.usage.made(&st)
	return fd, nil
}

// cloneMeta copies what points into the caller's buffer.
func cloneMeta(m Meta) Meta {
	if len(m.Xattrs) == 0 {
		return m
	}
	xattrs := make([]Xattr, len(m.Xattrs))
	for i, x := range m.Xattrs {
		xattrs[i] = Xattr{Name: x.Name, Value: append([]byte{}, x.Value...)}
	}
	m.Xattrs = xattrs
	return m
}

// change puts content into the open file.
func (f *openFile) change(a *Applier, r *Record) error {
	if f.fd < 0 {
		return fmt.Errorf("%w: %v without a file before it", ErrRecord, r.Type)
	}
	length := r.Length
	if r.Type == TypeData {
		length = int64(len(r.Data))
	}
	if r.Offset+length > f.size {
		return fmt.Errorf("%w: %v up to byte %d of %q, which has %d", ErrRecord, r.Type, r.Offset+length, f.path, f.size)
	}
	var err error
	if r.Type == TypeData {
		err = f.write(a, r.Data, r.Offset)
	} else {
		err = f.zero(a, r.Offset, r.Length)
	}
	return pathError("write to", f.path, err)
}

func (f *openFile) write(a *Applier, data []byte, offset int64) error {
	if a.usage.spend(f.pending+int64(len(data))) != nil {
		// Some of it may have gone over what the file had: count its blocks.
		if err := f.count(a); err != nil {
			return err
		}
		if err := a.usage.spend(int64(len(data))); err != nil && !f.covers(offset, len(data)) {
			return err
		}
	}
	f.pending += int64(len(data))
	for len(data) > 0 {
		n, err := unix.Pwrite(f.fd, data, offset)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

// covers says that the file has blocks already where the data goes, so that writing takes no more space.
func (f *openFile) covers(offset int64, length int) bool {
	data, err := unix.Seek(f.fd, offset, unix.SEEK_DATA)
	if err != nil || data != offset {
		return false
	}
	hole, err := unix.Seek(f.fd, offset, unix.SEEK_HOLE)
	return err == nil && hole >= offset+int64(length)
}

// count takes the file's blocks into the usage.
func (f *openFile) count(a *Applier) error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	a.usage.wrote(&st)
	f.pending = 0
	return nil
}

// zero makes a hole; a file system that has none gets zeros.
func (f *openFile) zero(a *Applier, offset, length int64) error {
	err := unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	for length > 0 {
		n := min(length, blockSize)
		if err := f.write(a, zeros[:n], offset); err != nil {
			return err
		}
		offset, length = offset+n, length-n
	}
	return nil
}

// finishFile gives the open file its metadata, which writing would have changed, and closes it.
func (a *Applier) finishFile() error {
	f := &a.file
	if f.fd < 0 {
		return nil
	}
	defer f.close()
	var st unix.Stat_t
	err := unix.Fstat(f.fd, &st)
	if err == nil {
		if f.bare {
			a.usage.made(&st)
		}
		a.usage.wrote(&st)
		err = a.usage.spend(0)
	}
	switch {
	case err != nil:
	case !a.opts.Bare:
		err = f.setMeta(&st)
	case st.Size < f.size:
		err = unix.Ftruncate(f.fd, f.size)
	}
	return pathError("finish", f.path, err)
}

// setMeta sets the owner first, which clears setuid bits and capabilities, the mode after the access control list, whose
// mask is part of it, and the time last.
func (f *openFile) setMeta(st *unix.Stat_t) error {
	m := &f.meta
	if st.Uid != m.UID || st.Gid != m.GID {
		if err := unix.Fchown(f.fd, int(m.UID), int(m.GID)); err != nil {
			return fmt.Errorf("owner: %w", err)
		}
	}
	if err := (xattrRef{fd: f.fd}).replace(m.Xattrs); err != nil {
		return err
	}
	if err := unix.Fchmod(f.fd, m.Mode); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return setMtime(f.fd, "", m.Mtime)
}

// meta gives what is at the name its metadata, without opening it.
func (a *Applier) meta(at place, m *Meta) error {
	st, found, err := at.lstat()
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: nothing is there", ErrDiverged)
	}
	if isDir(&st) {
		return a.directoryMeta(at.dir, at.name, at.path, m)
	}
	if err := setNamedMeta(at.dir, at.name, m, st.Mode&unix.S_IFMT == unix.S_IFLNK); err != nil {
		return err
	}
	return setMtime(at.dir, at.name, m.Mtime)
}

// directoryMeta gives a directory its metadata; its time waits for the end of the sync.
func (a *Applier) directoryMeta(dir int, name, path string, m *Meta) error {
	if err := setNamedMeta(dir, name, m, false); err != nil {
		return err
	}
	a.mtimes[path] = m.Mtime
	return nil
}

// setNamedMeta is setMeta without the time for what is no open file. The caller has looked whether it is a symbolic link: the mode
// of one cannot be set, and fchmodat would follow it.
func setNamedMeta(dir int, name string, m *Meta, link bool) error {
	if err := unix.Fchownat(dir, name, int(m.UID), int(m.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	if err := (xattrRef{path: procPath(dir, name)}).replace(m.Xattrs); err != nil {
		return err
	}
	if link {
		return nil
	}
	if err := unix.Fchmodat(dir, name, m.Mode, 0); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	return nil
}

// setMtime sets the modification time of name in dir, or of the open file dir itself if name is empty, and leaves the
// access time.
func setMtime(dir int, name string, mtime unix.Timespec) error {
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	if name != "" {
		if err := unix.UtimesNanoAt(dir, name, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("time: %w", err)
		}
		return nil
	}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(dir), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("time: %w", errno)
	}
	return nil
}
