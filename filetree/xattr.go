package filetree

import (
	"fmt"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrRef is where extended attributes are read and set: an open file, or, if path is not empty, a path whose last
// component is not followed.
type xattrRef struct {
	fd   int
	path string
}

func (x xattrRef) list(buf []byte) (int, error) {
	if x.path != "" {
		return unix.Llistxattr(x.path, buf)
	}
	return unix.Flistxattr(x.fd, buf)
}

func (x xattrRef) get(name string, buf []byte) (int, error) {
	if x.path != "" {
		return unix.Lgetxattr(x.path, name, buf)
	}
	return unix.Fgetxattr(x.fd, name, buf)
}

func (x xattrRef) set(name string, value []byte) error {
	if x.path != "" {
		return unix.Lsetxattr(x.path, name, value, 0)
	}
	return unix.Fsetxattr(x.fd, name, value, 0)
}

func (x xattrRef) remove(name string) error {
	if x.path != "" {
		return unix.Lremovexattr(x.path, name)
	}
	return unix.Fremovexattr(x.fd, name)
}

// names lists all attributes, those that are not carried included. A file system without any has none.
func (x xattrRef) names() ([]string, error) {
	var fixed [1024]byte
	buf := fixed[:]
	n, err := x.list(buf)
	if err == unix.ERANGE {
		buf = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = x.list(buf)
	}
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil || n == 0 {
		return nil, err
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	sort.Strings(names)
	return names, nil
}

// value reads one attribute; ENODATA means that it has gone since it was listed.
func (x xattrRef) value(name string) ([]byte, error) {
	for {
		n, err := x.get(name, nil)
		if err != nil {
			return nil, err
		}
		buf := make([]byte, n)
		if n == 0 {
			return buf, nil
		}
		n, err = x.get(name, buf)
		if err == unix.ERANGE { // grew in between
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// read returns the attributes that are carried, by name, and hands the others to private.
func (x xattrRef) read(carried func(string) bool, private func(name string, value []byte)) ([]Xattr, error) {
	names, err := x.names()
	if err != nil {
		return nil, err
	}
	var xattrs []Xattr
	bytes := 0
	for _, name := range names {
		keep := carried(name)
		if !keep && private == nil {
			continue
		}
		value, err := x.value(name)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		if !keep {
			private(name, value)
			continue
		}
		xattrs = append(xattrs, Xattr{Name: name, Value: value})
		bytes += len(name) + len(value)
	}
	if bytes > MaxXattrBytes || len(xattrs) > MaxXattrs {
		return nil, fmt.Errorf("%w: %d extended attributes of %d bytes in all", ErrLimit, len(xattrs), bytes)
	}
	return xattrs, nil
}

// replace makes the attributes exactly want, which is sorted, except for those that are not carried.
func (x xattrRef) replace(want []Xattr) error {
	names, err := x.names()
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	i := 0
	for _, name := range names {
		for i < len(want) && want[i].Name < name {
			i++
		}
		if i < len(want) && want[i].Name == name || !carriedXattr(name) {
			continue
		}
		if err := x.remove(name); err != nil && err != unix.ENODATA {
			return fmt.Errorf("remove attribute %s: %w", name, err)
		}
	}
	for _, w := range want {
		if err := x.set(w.Name, w.Value); err != nil {
			return fmt.Errorf("set attribute %s: %w", w.Name, err)
		}
	}
	return nil
}
