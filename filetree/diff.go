package filetree

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"
)

// diffLimit is how many differences Diff looks for.
const diffLimit = 100

// allocationSlack is how much more than the original, in bytes and beside a quarter of it, a copy may take on disk
// without a look at where the original has its data.
const allocationSlack = 256 << 10

// Diff says in what two quiet trees differ: names, types, owners, modes, link groups, extended attributes, modification
// times, device numbers, links' targets and content, and disk space where a copy b takes clearly more than a. Each
// difference is a line with its path; none means that they are equal. For an overlay both are the merged view. It is for
// checking copies, in tests and benchmarks, and reads every byte of both.
func Diff(a, b string) ([]string, error) {
	d := &differ{a: a, b: b, groupsA: map[FileID]string{}, groupsB: map[FileID]string{}}
	if err := d.entry(rootPath); err != nil {
		return d.lines, fmt.Errorf("compare %s with %s: %w", a, b, err)
	}
	return d.lines, nil
}

type differ struct {
	a, b             string
	lines            []string
	groupsA, groupsB map[FileID]string // first name of an inode
}

func (d *differ) add(path, format string, args ...any) {
	if len(d.lines) < diffLimit {
		d.lines = append(d.lines, fmt.Sprintf("%s: ", path)+fmt.Sprintf(format, args...))
	}
}

func (d *differ) entry(path string) error {
	var sa, sb unix.Stat_t
	if err := unix.Lstat(filepath.Join(d.a, path), &sa); err != nil {
		return pathError("look at", path, err)
	}
	if err := unix.Lstat(filepath.Join(d.b, path), &sb); err != nil {
		return pathError("look at", path, err)
	}
	typ := sa.Mode & unix.S_IFMT
	if typ != sb.Mode&unix.S_IFMT {
		d.add(path, "type %#o, copy %#o", typ, sb.Mode&unix.S_IFMT)
		return nil
	}
	if sa.Mode != sb.Mode || sa.Uid != sb.Uid || sa.Gid != sb.Gid {
		d.add(path, "mode and owner %#o %d:%d, copy %#o %d:%d", sa.Mode, sa.Uid, sa.Gid, sb.Mode, sb.Uid, sb.Gid)
	}
	if sa.Mtim != sb.Mtim {
		d.add(path, "modified %v, copy %v", sa.Mtim, sb.Mtim)
	}
	if err := d.xattrs(path); err != nil {
		return err
	}
	if typ == unix.S_IFDIR {
		return d.directory(path)
	}
	ga, gb := group(d.groupsA, &sa, path), group(d.groupsB, &sb, path)
	if ga != gb {
		d.add(path, "is a link of %s, copy of %s", ga, gb)
	}
	switch typ {
	case unix.S_IFREG:
		if sa.Size != sb.Size {
			d.add(path, "%d bytes, copy %d", sa.Size, sb.Size)
			return nil
		}
		if err := d.allocation(path, sa.Blocks*512, sb.Blocks*512); err != nil {
			return err
		}
		return d.content(path)
	case unix.S_IFLNK:
		ta, errA := os.Readlink(filepath.Join(d.a, path))
		tb, errB := os.Readlink(filepath.Join(d.b, path))
		if ta != tb || errA != nil || errB != nil {
			d.add(path, "link to %q (%v), copy to %q (%v)", ta, errA, tb, errB)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if sa.Rdev != sb.Rdev {
			d.add(path, "device %#x, copy %#x", sa.Rdev, sb.Rdev)
		}
	}
	return nil
}

// group is the first name that the inode was seen under.
func group(groups map[FileID]string, st *unix.Stat_t, path string) string {
	id := FileID{Dev: uint64(st.Dev), Ino: st.Ino}
	if st.Nlink == 1 {
		return path
	}
	if _, ok := groups[id]; !ok {
		groups[id] = path
	}
	return groups[id]
}

func (d *differ) directory(path string) error {
	na, err := sortedNames(filepath.Join(d.a, path))
	if err != nil {
		return err
	}
	nb, err := sortedNames(filepath.Join(d.b, path))
	if err != nil {
		return err
	}
	for len(na) > 0 || len(nb) > 0 {
		switch {
		case len(nb) == 0 || len(na) > 0 && na[0] < nb[0]:
			d.add(join(path, na[0]), "only in the original")
			na = na[1:]
		case len(na) == 0 || nb[0] < na[0]:
			d.add(join(path, nb[0]), "only in the copy")
			nb = nb[1:]
		default:
			if err := d.entry(join(path, na[0])); err != nil {
				return err
			}
			na, nb = na[1:], nb[1:]
		}
	}
	return nil
}

func sortedNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	sort.Strings(names)
	return names, err
}

func (d *differ) xattrs(path string) error {
	xa, err := xattrRef{path: filepath.Join(d.a, path)}.read(carriedXattr, nil)
	if err != nil {
		return pathError("attributes of", path, err)
	}
	xb, err := xattrRef{path: filepath.Join(d.b, path)}.read(carriedXattr, nil)
	if err != nil {
		return pathError("attributes of", path, err)
	}
	ma, mb := Meta{Xattrs: xa}, Meta{Xattrs: xb}
	if !ma.equal(&mb) {
		d.add(path, "attributes %q, copy %q", xa, xb)
	}
	return nil
}

// allocation compares what a file and its copy take on disk. The blocks of a copy are blockSize bytes: it may have
// each whole of which the original has a part.
func (d *differ) allocation(path string, original, copied int64) error {
	if copied <= original*5/4+allocationSlack {
		return nil
	}
	f, err := os.Open(filepath.Join(d.a, path))
	if err != nil {
		return err
	}
	defer f.Close()
	var touched int64
	for pos := int64(0); ; pos = (pos/blockSize + 1) * blockSize {
		if pos, err = unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA); err == unix.ENXIO {
			break
		} else if err != nil {
			return err
		}
		touched += blockSize
	}
	if copied > touched*5/4+allocationSlack {
		d.add(path, "takes %d bytes on disk in %d bytes of blocks, copy %d", original, touched, copied)
	}
	return nil
}

func (d *differ) content(path string) error {
	fa, err := os.Open(filepath.Join(d.a, path))
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(filepath.Join(d.b, path))
	if err != nil {
		return err
	}
	defer fb.Close()
	ba, bb := make([]byte, MaxData), make([]byte, MaxData)
	for offset := int64(0); ; offset += MaxData {
		na, err := io.ReadFull(fa, ba)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		nb, err := io.ReadFull(fb, bb)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if !bytes.Equal(ba[:na], bb[:nb]) {
			d.add(path, "content differs in the %d bytes at %d", MaxData, offset)
			return nil
		}
		if na < MaxData {
			return nil
		}
	}
}
