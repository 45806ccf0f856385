package filetree

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of a record. AppendRecord, DecodeRecord and Applier.Apply refuse what is beyond them.
const (
	// MaxData is the most bytes of content in one record.
	MaxData = 256 << 10
	// MaxPath is the longest path and the longest symbolic link's target, in bytes (PATH_MAX without its NUL).
	MaxPath = 4095
	// MaxName is the longest component of a path, in bytes (NAME_MAX).
	MaxName = 255
	// MaxXattrs is the most extended attributes of one file.
	MaxXattrs = 512
	// MaxXattrBytes is the most bytes of names and values of one file's extended attributes.
	MaxXattrBytes = 256 << 10
	// MaxRecord is the most bytes that AppendRecord adds for one record.
	MaxRecord = MaxXattrBytes + 2*MaxPath + 8<<10
)

const (
	maxFileSize = 1<<62 - 1
	rootPath    = "."
)

// Type says what a record does at the destination.
type Type uint8

// The types of record. Create in "creates" means: whatever the path held before, a whole directory included, is replaced.
const (
	// TypeDir makes Path a directory with Meta. An existing directory is kept with what is in it unless Opaque.
	TypeDir Type = 1 + iota
	// TypeFile opens the regular file at Path for the TypeData and TypeZero records that follow it, gives it Size and,
	// after those records, Meta. With Create it creates an empty file; without, the file is there from an earlier record.
	TypeFile
	// TypeData puts Data at Offset of the file opened by the last TypeFile.
	TypeData
	// TypeZero makes Length bytes at Offset of the file opened by the last TypeFile read as zero, as a hole if possible.
	TypeZero
	// TypeLink creates Path as one more name of the file at Target.
	TypeLink
	// TypeSymlink creates Path as a symbolic link whose content is Target.
	TypeSymlink
	// TypeNode creates Path as the fifo, socket or device that NodeType, Major and Minor say.
	TypeNode
	// TypeRemove removes Path and everything below it; nothing there is fine.
	TypeRemove
	// TypeRename moves what is at Target, not a directory, to Path, which is replaced.
	TypeRename
	// TypeMeta gives what is at Path new metadata.
	TypeMeta
	// TypeEnd ends a sync: the destination is now what the source saw in it.
	TypeEnd
)

var typeNames = [...]string{
	TypeDir: "dir", TypeFile: "file", TypeData: "data", TypeZero: "zero", TypeLink: "link", TypeSymlink: "symlink",
	TypeNode: "node", TypeRemove: "remove", TypeRename: "rename", TypeMeta: "meta", TypeEnd: "end",
}

func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Meta is the metadata that a record carries; it replaces all of the destination's.
type Meta struct {
	UID, GID uint32
	Mode     uint32        // permission, setuid, setgid and sticky bits, 07777; without meaning for a symbolic link
	Mtime    unix.Timespec // time of last modification
	Xattrs   []Xattr       // all of them, by ascending name
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Record is one step of bringing the destination's tree to the state of the source's. Which fields count depends on Type.
// Paths are relative to the root of the tree, "." being the root itself, with "/" between components.
type Record struct {
	Type   Type
	Path   string // all but data, zero and end
	Target string // link and rename: the path of the existing file; symlink: its content
	Meta   Meta   // dir, file, symlink, node, meta

	Opaque bool // dir: nothing of what the path held before is to be seen in it
	Create bool // file

	Size   int64  // file: bytes
	Offset int64  // data, zero
	Length int64  // zero
	Data   []byte // data; valid only during the call that hands it over

	NodeType     uint32 // node: S_IFIFO, S_IFSOCK, S_IFCHR or S_IFBLK
	Major, Minor uint32 // node: of a device

	Sync   uint64 // end: the number of the sync, from 1
	Count  uint64 // end: records of this sync before this one
	Frozen bool   // end: of a SyncFrozen
}

// Validate returns an ErrRecord if the record is not one that a Source may send.
func (r *Record) Validate() error {
	if err := r.validate(); err != nil {
		return fmt.Errorf("%w: %v: %w", ErrRecord, r.Type, err)
	}
	return nil
}

func (r *Record) validate() error {
	switch r.Type {
	case TypeData:
		if len(r.Data) == 0 || len(r.Data) > MaxData {
			return fmt.Errorf("%d bytes of data, want 1 to %d", len(r.Data), MaxData)
		}
		return validRange(r.Offset, int64(len(r.Data)))
	case TypeZero:
		return validRange(r.Offset, r.Length)
	case TypeEnd:
		return nil
	case TypeDir, TypeMeta:
		if r.Path == rootPath && !r.Opaque {
			return r.Meta.validate()
		}
	}
	if err := validPath(r.Path); err != nil {
		return err
	}
	switch r.Type {
	case TypeRemove:
		return nil
	case TypeLink, TypeRename:
		return validPath(r.Target)
	case TypeDir, TypeMeta:
		return r.Meta.validate()
	case TypeFile:
		if r.Size < 0 || r.Size > maxFileSize {
			return fmt.Errorf("size %d of %q", r.Size, r.Path)
		}
		return r.Meta.validate()
	case TypeSymlink:
		if r.Target == "" || len(r.Target) > MaxPath || strings.IndexByte(r.Target, 0) >= 0 {
			return fmt.Errorf("target of %q is empty, has a NUL or is longer than %d bytes", r.Path, MaxPath)
		}
		return r.Meta.validate()
	case TypeNode:
		if err := r.validNode(); err != nil {
			return err
		}
		return r.Meta.validate()
	}
	return fmt.Errorf("unknown type")
}

// validNode bounds device numbers to what the kernel stores (include/linux/kdev_t.h: 12 and 20 bits) and refuses the
// character device 0:0, which is a whiteout to overlayfs.
func (r *Record) validNode() error {
	switch r.NodeType {
	case unix.S_IFIFO, unix.S_IFSOCK:
		if r.Major != 0 || r.Minor != 0 {
			return fmt.Errorf("device number %d:%d of %q, which is no device", r.Major, r.Minor, r.Path)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if r.Major >= 1<<12 || r.Minor >= 1<<20 || r.NodeType == unix.S_IFCHR && r.Major == 0 && r.Minor == 0 {
			return fmt.Errorf("device number %d:%d of %q", r.Major, r.Minor, r.Path)
		}
	default:
		return fmt.Errorf("file type %#o of %q", r.NodeType, r.Path)
	}
	return nil
}

func (m *Meta) validate() error {
	if m.Mode&^0o7777 != 0 {
		return fmt.Errorf("mode %#o", m.Mode)
	}
	if m.Mtime.Nsec < 0 || m.Mtime.Nsec >= 1e9 {
		return fmt.Errorf("modification time with %d nanoseconds", m.Mtime.Nsec)
	}
	if len(m.Xattrs) > MaxXattrs {
		return fmt.Errorf("%d extended attributes, want at most %d", len(m.Xattrs), MaxXattrs)
	}
	bytes, last := 0, ""
	for _, x := range m.Xattrs {
		if x.Name <= last {
			return fmt.Errorf("extended attribute %q is not after %q", x.Name, last)
		}
		if !carriedXattr(x.Name) || strings.IndexByte(x.Name, 0) >= 0 || len(x.Name) > MaxName {
			return fmt.Errorf("extended attribute %q is not one that may be copied", x.Name)
		}
		last, bytes = x.Name, bytes+len(x.Name)+len(x.Value)
	}
	if bytes > MaxXattrBytes {
		return fmt.Errorf("%d bytes of extended attributes, want at most %d", bytes, MaxXattrBytes)
	}
	return nil
}

// carriedXattr says whether an attribute is the file's own. Those of overlayfs describe its layers and would let a peer
// make a directory show another; other namespaces belong to one file system.
func carriedXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, trustedOverlay):
		return false
	case name == "system.posix_acl_access", name == "system.posix_acl_default":
		return true
	}
	for _, space := range [...]string{"user.", "trusted.", "security."} {
		if strings.HasPrefix(name, space) && len(name) > len(space) {
			return true
		}
	}
	return false
}

func validRange(offset, length int64) error {
	if offset < 0 || length <= 0 || offset > maxFileSize || length > maxFileSize-offset {
		return fmt.Errorf("range of %d bytes at %d", length, offset)
	}
	return nil
}

// validPath accepts relative paths in their shortest form that lead downwards only.
func validPath(path string) error {
	if len(path) == 0 || len(path) > MaxPath {
		return fmt.Errorf("path of %d bytes, want 1 to %d", len(path), MaxPath)
	}
	if strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("path %q has a NUL", path)
	}
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." || len(name) > MaxName {
			return fmt.Errorf("path %q has the component %q", path, name)
		}
	}
	return nil
}
