package filetree

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ApplyOptions of an Applier. The zero value refuses devices and has no other limit than the file system's.
type ApplyOptions struct {
	// MaxBytes bounds the disk space of the files that the records make and write, in bytes as the file system counts
	// blocks; 0: no limit.
	MaxBytes int64
	// MaxEntries bounds the names that the records make and have not removed again; 0: no limit.
	MaxEntries int64
	// AllowDevices lets TypeNode make block and character devices.
	AllowDevices bool
	// Bare: files are there for their content. They stay their maker's, with mode 0600 and the time at which they are made, and have no
	// extended attributes; directories have the time of their last change.
	Bare bool
}

// Applier brings a tree to the state that a Source's records say. The tree is the merged view of a mounted overlay whose
// lower layers are those of the source, or a plain directory; removing a name makes an overlay write its own whiteout.
//
// Records are untrusted. No path leaves the tree, follows a symbolic link or crosses into another mount, but nobody else may
// change the tree meanwhile. Files are made as the records say, setuid bits and file capabilities included. Its
// methods must not be called concurrently.
type Applier struct {
	dir  *os.File
	opts ApplyOptions

	parentPath string // of parentFD, the directory last worked in
	parentFD   int    // -1: none

	file openFile

	mtimes map[string]unix.Timespec // of directories that were worked in, to be set when the sync ends
	usage  usage

	syncs, records uint64
	failed         error
}

// NewApplier opens the directory that is the root of the destination's tree. Close releases it.
func NewApplier(root string, opts ApplyOptions) (*Applier, error) {
	dir, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	return &Applier{
		dir: dir, opts: opts, parentFD: -1, file: openFile{fd: -1},
		mtimes: make(map[string]unix.Timespec), usage: newUsage(opts),
	}, nil
}

// Close releases the tree. What was applied of an unfinished sync stays.
func (a *Applier) Close() error {
	a.forgetParent()
	a.file.close()
	return a.dir.Close()
}

// Apply carries out the next record. After an error every further call is an ErrBroken: the tree is of no use then. Errors
// name the path; a caller decides by ErrRecord, ErrLimit, ErrNoSpace, ErrDevice and ErrDiverged.
func (a *Applier) Apply(r Record) error {
	if a.failed != nil {
		return fmt.Errorf("%w: %w", ErrBroken, a.failed)
	}
	if err := a.apply(&r); err != nil {
		a.failed = err
		return err
	}
	return nil
}

func (a *Applier) apply(r *Record) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if r.Type == TypeData || r.Type == TypeZero {
		a.records++
		return a.file.change(a, r)
	}
	if err := a.finishFile(); err != nil {
		return err
	}
	if r.Type == TypeEnd {
		return a.end(r)
	}
	a.records++
	err := a.place(r)
	if err != nil {
		return pathError("apply "+r.Type.String()+" to", r.Path, err)
	}
	return nil
}

// place carries out a record that names a path.
func (a *Applier) place(r *Record) error {
	if r.Path == rootPath {
		return a.directoryMeta(int(a.dir.Fd()), rootPath, rootPath, &r.Meta)
	}
	at, err := a.resolve(r.Path)
	if err != nil {
		return err
	}
	switch r.Type {
	case TypeRemove:
		return a.remove(at)
	case TypeMeta:
		return a.meta(at, &r.Meta)
	case TypeDir:
		return a.directory(at, r)
	case TypeFile:
		return a.openFile(at, r)
	case TypeLink, TypeRename:
		return a.another(at, r)
	default:
		return a.special(at, r)
	}
}

// place of a name: its directory, open, and the name in it. It is good until the next call of resolve.
type place struct {
	path string // of the name
	dir  int
	name string
}

func splitPath(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return rootPath, path
	}
	return path[:i], path[i+1:]
}

// resolve opens the directory of path, or has it open still, since records of one directory come together.
func (a *Applier) resolve(path string) (place, error) {
	dir, name := splitPath(path)
	if a.parentFD < 0 || a.parentPath != dir {
		fd, err := a.openDir(dir)
		if err != nil {
			return place{}, err
		}
		a.forgetParent()
		a.parentFD, a.parentPath = fd, dir
	}
	return place{path: path, dir: a.parentFD, name: name}, nil
}

func (a *Applier) openDir(path string) (int, error) {
	fd, err := openBeneath(int(a.dir.Fd()), path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil && gone(err) {
		return -1, fmt.Errorf("%w: directory %q: %w", ErrDiverged, path, err)
	}
	return fd, err
}

// forgetParent closes the directory last worked in. That one is never removed: resolve has gone elsewhere by then.
func (a *Applier) forgetParent() {
	if a.parentFD >= 0 {
		_ = unix.Close(a.parentFD)
	}
	a.parentFD, a.parentPath = -1, ""
}

// touching runs change, which changes what names the directory of at holds, and sees to it that the end of the sync
// gives the directory the modification time that it had, or that a TypeDir says.
func (a *Applier) touching(at place, change func() error) error {
	dir, _ := splitPath(at.path)
	if _, ok := a.mtimes[dir]; ok || a.opts.Bare {
		return change()
	}
	var st unix.Stat_t
	if err := unix.Fstat(at.dir, &st); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	a.mtimes[dir] = st.Mtim
	return nil
}

// end gives the directories their times and checks that no record was lost.
func (a *Applier) end(r *Record) error {
	if r.Sync != a.syncs+1 || r.Count != a.records {
		return fmt.Errorf("%w: end of sync %d after %d records, here it is sync %d after %d", ErrRecord, r.Sync, r.Count, a.syncs+1, a.records)
	}
	for path, mtime := range a.mtimes {
		fd, err := openBeneath(int(a.dir.Fd()), path, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil && gone(err) {
			continue // removed since
		}
		if err == nil {
			err = setMtime(fd, "", mtime)
			_ = unix.Close(fd)
		}
		if err != nil {
			return pathError("set time of", path, err)
		}
	}
	clear(a.mtimes)
	a.syncs, a.records = r.Sync, 0
	return nil
}
