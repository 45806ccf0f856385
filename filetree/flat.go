package filetree

import (
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrNotFlat is wrapped by the error for a directory that holds something else than regular files.
var ErrNotFlat = errors.New("not only regular files are in it")

// SendFlat emits all records of a directory of small files that nobody changes, but for those of a name in skip: its regular files, with no
// extended attributes, as a Source would in its only sync. It looks at each of them once, and in turn: a Source, which knows what it has sent and
// reads ahead, takes several times as long for files of some hundred bytes. Anything else in it is an ErrNotFlat.
func SendFlat(ctx context.Context, root string, skip []string, emit func(Record) error) error {
	dir, err := openRoot(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := flatNames(int(dir.Fd()), skip)
	if err != nil {
		return pathError("list", root, err)
	}
	f := flatSender{dir: int(dir.Fd()), buffer: dataBuffers.get(), emitTo: emit}
	defer dataBuffers.put(f.buffer)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.file(name); err != nil {
			return pathError("copy", name, err)
		}
	}
	return emit(Record{Type: TypeEnd, Sync: 1, Count: f.records, Frozen: true})
}

// flatNames lists the files.
func flatNames(dir int, skip []string) ([]string, error) {
	buffer := nameBuffers.get()
	defer nameBuffers.put(buffer)
	names, err := readNames(dir, buffer)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(skip, name) })
	slices.Sort(names)
	return names, nil
}

// flatSender sends files of a directory.
type flatSender struct {
	dir     int
	buffer  []byte // of MaxData bytes
	emitTo  func(Record) error
	records uint64
}

func (f *flatSender) emit(r Record) error {
	if err := f.emitTo(r); err != nil {
		return err
	}
	f.records++
	return nil
}

// file sends one.
func (f *flatSender) file(name string) error {
	fd, err := unix.Openat(f.dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP {
		return ErrNotFlat
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return ErrNotFlat
	}
	meta := Meta{UID: st.Uid, GID: st.Gid, Mode: st.Mode & 0o7777, Mtime: st.Mtim}
	if err := f.emit(Record{Type: TypeFile, Path: name, Create: true, Size: st.Size, Meta: meta}); err != nil {
		return err
	}
	for at := int64(0); at < st.Size; {
		n, err := readFull(fd, f.buffer[:min(MaxData, st.Size-at)], at)
		switch {
		case err != nil:
		case n == 0:
			err = ErrNotFrozen
		default:
			err = f.emit(Record{Type: TypeData, Offset: at, Data: f.buffer[:n]})
		}
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}
