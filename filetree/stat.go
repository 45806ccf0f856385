package filetree

import (
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FileID names an inode: Dev as unix.Mkdev makes it, Ino as stat gives it.
type FileID struct {
	Dev, Ino uint64
}

// stat is what of an inode changes when anything of it changes. Block count and access time are left out: both move
// without the file changing.
type stat struct {
	size         int64
	mtime, ctime unix.Timespec
	mode         uint32 // type and permission
	uid, gid     uint32
	nlink        uint32
	rdev         uint64
}

// racyWindow is how much older than the reading of a file its change time must be for a later write to be sure to move it.
// The kernel stamps with the time of the last tick, which is at most 10 ms old.
const racyWindow = 50 * time.Millisecond

// racy says that the inode may be written to after the moment `at` without st.ctime changing.
func (st *stat) racy(at time.Time) bool {
	return time.Unix(st.ctime.Sec, st.ctime.Nsec).After(at.Add(-racyWindow))
}

func (st *stat) typ() uint32 { return st.mode & unix.S_IFMT }

const statMask = unix.STATX_BASIC_STATS

// statter calls statx without allocating; each goroutine has its own.
type statter struct {
	name []byte
	raw  unix.Statx_t
}

// at fills raw with what name in the directory dir is, a symbolic link itself; an empty name means dir itself.
func (s *statter) at(dir int, name string) error {
	s.name = append(append(s.name[:0], name...), 0)
	flags := uintptr(unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT)
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(&s.name[0])), flags, statMask,
			uintptr(unsafe.Pointer(&s.raw)), 0)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

func (s *statter) id() FileID {
	return FileID{Dev: unix.Mkdev(s.raw.Dev_major, s.raw.Dev_minor), Ino: s.raw.Ino}
}

func (s *statter) stat() stat {
	r := &s.raw
	return stat{
		size:  int64(r.Size),
		mtime: unix.Timespec{Sec: r.Mtime.Sec, Nsec: int64(r.Mtime.Nsec)},
		ctime: unix.Timespec{Sec: r.Ctime.Sec, Nsec: int64(r.Ctime.Nsec)},
		mode:  uint32(r.Mode), uid: r.Uid, gid: r.Gid, nlink: r.Nlink,
		rdev: unix.Mkdev(r.Rdev_major, r.Rdev_minor),
	}
}

// mountRoot says that something else is mounted here (Linux 5.8 or later tells).
func (s *statter) mountRoot() bool {
	return s.raw.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// openBeneath opens path below the directory root. No component may be a symbolic link, leave the root or cross into
// another mount; the error of one that does is ELOOP or EXDEV. The root itself is ".".
func openBeneath(root int, path string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(root, path, &how)
		// EAGAIN: a rename elsewhere made the kernel unsure of "beneath"; it asks to be called again.
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// openRoot opens the directory that a tree is below; path is the caller's own and may lead through symbolic links.
func openRoot(path string) (*os.File, error) {
	fd, err := openDetached(path)
	if err != nil { // without CAP_SYS_ADMIN, or what is wrong with the path
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, pathError("open tree", path, err)
	}
	probe, err := openBeneath(fd, rootPath, unix.O_PATH)
	if err != nil {
		_ = unix.Close(fd)
		if err == unix.ENOSYS {
			err = ErrNoOpenat2
		}
		return nil, pathError("open tree", path, err)
	}
	_ = unix.Close(probe)
	return os.NewFile(uintptr(fd), path), nil
}

// openDetached opens a directory through a copy of its mount that is attached nowhere: whoever owns the mount can unmount it
// at any time, without an EBUSY for what is open here.
func openDetached(path string) (int, error) {
	mount, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, err
	}
	defer unix.Close(mount)
	return unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// readNames returns the names in the open directory, in the file system's order. buf is scratch space.
func readNames(fd int, buf []byte) ([]string, error) {
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// procPath is a path to name in the open directory for system calls that take no directory descriptor. Its last component
// is followed only by those that follow links.
func procPath(dir int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
}

// join is the path of a name in a directory of the tree.
func join(dir, name string) string {
	if dir == rootPath {
		return name
	}
	return dir + "/" + name
}
