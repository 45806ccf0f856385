package tmpfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/filetree"
)

// Source is a tmpfs of a container that leaves, open.
type Source struct {
	Mount
	tree *os.File
	// files knows what Ahead has written down; nil if that is nothing.
	files *filetree.Source
}

// Open opens mounts that Find has found, in this order: nil for one that is not what it was any more. pid is the
// container's first process, and others are all that it has: if one of them is in another mount namespace, nothing is opened,
// since CRIU knows external mounts by their path in the container's.
func Open(pid int, others []int, mounts []Mount) ([]*Source, error) {
	sources := make([]*Source, len(mounts))
	alone, err := oneNamespace(pid, others)
	if err != nil || !alone || len(mounts) == 0 {
		return sources, err
	}
	now, err := Find(pid)
	if err != nil {
		return sources, err
	}
	err = inMounts(pid, func() error {
		for i, m := range mounts {
			if !slices.ContainsFunc(now, m.equal) {
				continue
			}
			if sources[i], err = m.open(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		Close(sources)
		return make([]*Source, len(mounts)), err
	}
	return sources, nil
}

// equal says that two mounts are the same.
func (m Mount) equal(o Mount) bool {
	return m.Path == o.Path && m.Device == o.Device && slices.Equal(m.Options, o.Options)
}

// Close closes what Open has opened.
func Close(sources []*Source) {
	for _, s := range sources {
		if s != nil {
			s.forget()
			s.tree.Close()
		}
	}
}

// oneNamespace says whether processes that have not ended share a mount namespace.
func oneNamespace(pid int, others []int) (bool, error) {
	first, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return false, fmt.Errorf("mount namespace of process %d: %w", pid, err)
	}
	for _, other := range others {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", other))
		if err == nil && ns != first {
			return false, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return false, fmt.Errorf("mount namespace of process %d: %w", other, err)
		}
	}
	return true, nil
}

// open takes a copy of the mount, without what is mounted below it; nil if what the path leads to is another. The calling
// thread is in the container's mount namespace.
func (m Mount) open() (*Source, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("open mount %s of the container: %w", m.Path, err)
	}
	tree := os.NewFile(uintptr(fd), m.Path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s of the container: %w", m.Path, err), tree.Close())
	}
	if fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)) != m.Device || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, tree.Close()
	}
	return &Source{Mount: m, tree: tree}, nil
}

// Save writes down all that the mount holds, to a file that is made or replaced. Nobody may change the mount meanwhile.
func (s *Source) Save(ctx context.Context, file string) error {
	source, err := filetree.NewSource(descriptorPath(s.tree), filetree.Plain, filetree.Options{})
	if err != nil {
		return fmt.Errorf("mount %s: %w", s.Path, err)
	}
	defer source.Close()
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("records of mount %s: %w", s.Path, err)
	}
	var buffer []byte
	_, err = source.SyncFrozen(ctx, filetree.Mapped{}, func(r filetree.Record) error {
		var err error
		if buffer, err = filetree.AppendRecord(buffer, r); err != nil || len(buffer) < saveBatch {
			return err
		}
		_, err = out.Write(buffer)
		buffer = buffer[:0]
		return err
	})
	if err == nil {
		_, err = out.Write(buffer)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("save mount %s: %w", s.Path, err)
	}
	return nil
}

// saveBatch is how many bytes of records gather before they are written.
const saveBatch = 128 << 10

// descriptorPath is a path to an open directory.
func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// inMounts does something in the mount namespace of a process. The thread comes back to where it was, as one that ends takes
// along what it has started; only the directories that it is in are its own from then on, and the same as the others'.
func inMounts(pid int, do func() error) error {
	runtime.LockOSThread()
	stay, err := visit(pid, do)
	if !stay {
		runtime.UnlockOSThread()
	}
	return err
}

// visit is inMounts on a locked thread; stay says that the thread could not come back.
func visit(pid int, do func() error) (stay bool, err error) {
	there, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("mount namespace of process %d: %w", pid, err)
	}
	defer unix.Close(there)
	var home [3]int // namespace, root, working directory
	for i, path := range []string{"/proc/thread-self/ns/mnt", "/", "."} {
		if home[i], err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return false, fmt.Errorf("remember %s: %w", path, err)
		}
		defer unix.Close(home[i])
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return false, fmt.Errorf("directories of a thread's own: %w", err)
	}
	if err := unix.Setns(there, unix.CLONE_NEWNS); err != nil {
		return false, fmt.Errorf("enter the mount namespace of process %d: %w", pid, err)
	}
	err = do()
	if back := comeBack(home); back != nil {
		return true, errors.Join(err, fmt.Errorf("leave the mount namespace of process %d: %w", pid, back))
	}
	return false, err
}

// comeBack takes the calling thread to a mount namespace, a root and a working directory.
func comeBack(home [3]int) error {
	if err := unix.Setns(home[0], unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Fchdir(home[1]); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Fchdir(home[2])
}
