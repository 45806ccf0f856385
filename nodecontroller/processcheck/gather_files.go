package processcheck

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFDInfo bounds what is read about one open file, bytes: an epoll has a line
// for each file that it waits for.
const maxFDInfo = 256 << 10

// files are a process's open files.
func (g *gatherer) files(p *Process) ([]File, error) {
	entries, err := os.ReadDir(proc(p.PID, "fd"))
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	handle, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	defer unix.Close(handle)
	files := make([]File, 0, len(entries))
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		f, err := openFile(p.PID, fd)
		if gone(err) {
			continue // it was closed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("open file %d: %w", fd, err)
		}
		if f.Type == unix.S_IFSOCK {
			if f.Socket, err = g.socket(p, handle, &f); err != nil {
				return nil, fmt.Errorf("socket %d: %w", fd, err)
			}
		}
		files = append(files, f)
	}
	return files, nil
}

func openFile(pid, fd int) (File, error) {
	f := File{FD: fd, Info: make(map[string]string)}
	path := proc(pid, "fd", strconv.Itoa(fd))
	var err error
	if f.Link, err = os.Readlink(path); err != nil {
		return f, err
	}
	// What is known already will do: a server that does not answer must not stop us.
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_INO, &st); err != nil {
		return f, err
	}
	f.Type, f.Inode = uint32(st.Mode)&unix.S_IFMT, st.Ino
	f.Special = Device{st.Rdev_major, st.Rdev_minor}
	f.FileSystem = Device{st.Dev_major, st.Dev_minor}
	return f, f.readInfo(pid)
}

// readInfo reads /proc/PID/fdinfo/FD.
func (f *File) readInfo(pid int) error {
	file, err := os.Open(proc(pid, "fdinfo", strconv.Itoa(f.FD)))
	if err != nil {
		return err
	}
	defer file.Close()
	for line := range infoLines(file) {
		if strings.HasPrefix(line, "inotify ") || strings.HasPrefix(line, "fanotify ") {
			if device, ok := watched(line); ok && !slices.Contains(f.Watches, device) {
				f.Watches = append(f.Watches, device)
			}
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch key {
		case "mnt_id":
			f.Mount, err = strconv.Atoi(value)
		case "flags":
			f.Flags, err = strconv.ParseUint(value, 8, 64)
		case "lock":
			f.Locked = f.Locked || excludes(value)
		default:
			f.Info[key] = value
		}
		if err != nil {
			return fmt.Errorf("fdinfo: %w", err)
		}
	}
	return nil
}

// infoLines are the lines of a file, as far as maxFDInfo reaches.
func infoLines(file *os.File) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		s := bufio.NewScanner(file)
		for read := 0; read < maxFDInfo && s.Scan(); read += len(s.Bytes()) {
			if !yield(s.Text()) {
				return
			}
		}
	}
}

// excludes says whether a lock keeps others from having one (kernel: fs/locks.c,
// lock_get_status): of locks to read there may be many.
func excludes(lock string) bool {
	fields := strings.Fields(lock) // number, kind, how, what
	return len(fields) > 3 && (fields[1] == "LEASE" || fields[3] == "WRITE")
}

// watched is the file system that a mark of inotify or fanotify is on (kernel:
// fs/notify/fdinfo.c). sdev is the kernel's own form of a device number.
func watched(line string) (Device, bool) {
	for field := range strings.FieldsSeq(line) {
		value, ok := strings.CutPrefix(field, "sdev:")
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(value, 16, 32)
		return Device{uint32(n >> 20), uint32(n & (1<<20 - 1))}, err == nil
	}
	return Device{}, false
}

// areas are a process's mapped areas that may be in the way, each path once.
func areas(pid int) ([]Area, error) {
	file, err := os.Open(proc(pid, "maps"))
	if err != nil {
		return nil, fmt.Errorf("memory map: %w", err)
	}
	defer file.Close()
	var found []Area
	s := bufio.NewScanner(file)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 6 {
			continue
		}
		path := strings.Join(fields[5:], " ")
		if !unusual(path) || slices.ContainsFunc(found, func(a Area) bool { return a.Path == path }) {
			continue
		}
		found = append(found, describeArea(pid, fields[0], path))
	}
	// A process that ends meanwhile ends its map.
	if err := s.Err(); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("memory map: %w", err)
	}
	return found, nil
}

// unusual says whether the path of an area may be that of something that is no
// ordinary file.
func unusual(path string) bool {
	for _, prefix := range []string{"/dev/", "anon_inode:", "/SYSV", "/secretmem", "/dmabuf:", "[uprobes]", "socket:"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return isAnew(path)
}

// describeArea finds out whether a device is mapped, by the kernel's link to what
// is mapped.
func describeArea(pid int, span, path string) Area {
	a := Area{Path: path}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, proc(pid, "map_files", span), unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return a
	}
	kind := uint32(st.Mode) & unix.S_IFMT
	a.Device = kind == unix.S_IFCHR || kind == unix.S_IFBLK
	a.Special = Device{st.Rdev_major, st.Rdev_minor}
	return a
}
