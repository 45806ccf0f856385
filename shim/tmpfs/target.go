package tmpfs

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/filetree"
)

// maxEntries bounds the names in one mount that a peer fills.
const maxEntries = 1 << 20

// Target is a tmpfs that is made for a container that arrives. It is mounted nowhere until somebody attaches it.
type Target struct {
	Mount
	mount *os.File
}

// Make makes an empty tmpfs.
func (m Mount) Make() (*Target, error) {
	if err := m.valid(); err != nil {
		return nil, err
	}
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a tmpfs: %w", err)
	}
	defer unix.Close(context)
	for _, o := range m.Options {
		name, value, _ := parseOption(o)
		switch {
		case name == "ro" || name == "rw": // it has to be filled first
		case optionValues[name] == nil:
			err = unix.FsconfigSetFlag(context, name)
		default:
			err = unix.FsconfigSetString(context, name, value)
		}
		if err != nil {
			return nil, fmt.Errorf("make a tmpfs for %s: option %s: %w", m.Path, o, err)
		}
	}
	if err := unix.FsconfigSetString(context, "source", "tmpfs"); err != nil {
		return nil, fmt.Errorf("make a tmpfs for %s: %w", m.Path, err)
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, fmt.Errorf("make a tmpfs for %s: %w", m.Path, err)
	}
	const attributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, fmt.Errorf("mount a tmpfs for %s: %w", m.Path, err)
	}
	return &Target{Mount: m, mount: os.NewFile(uintptr(fd), m.Path)}, nil
}

// MakeAll makes one for each of a list.
func MakeAll(mounts []Mount) ([]*Target, error) {
	targets := make([]*Target, 0, len(mounts))
	for _, m := range mounts {
		t, err := m.Make()
		if err != nil {
			CloseAll(targets)
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// CloseAll lets go of them: what is attached nowhere is gone then.
func CloseAll(targets []*Target) {
	for _, t := range targets {
		t.mount.Close()
	}
}

// File is the mount as a process that attaches it inherits it.
func (t *Target) File() *os.File { return t.mount }

// Attach mounts a Target that the process has inherited as a descriptor at a path, in the mount namespace of the calling thread.
func Attach(fd int, path string) error {
	err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", path, err)
	}
	return nil
}

// Fill makes in the mount what Source.Save has written down in a file, which is a peer's.
func (t *Target) Fill(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("records of mount %s: %w", t.Path, err)
	}
	defer in.Close()
	applier, err := filetree.NewApplier(descriptorPath(t.mount), filetree.ApplyOptions{MaxEntries: maxEntries, AllowDevices: true})
	if err != nil {
		return fmt.Errorf("mount %s: %w", t.Path, err)
	}
	err = errors.Join(applyAll(applier, in), applier.Close())
	if err == nil && slices.Contains(t.Options, "ro") {
		err = t.seal()
	}
	if err != nil {
		return fmt.Errorf("fill mount %s: %w", t.Path, err)
	}
	return nil
}

// applyAll applies all records of a file.
func applyAll(applier *filetree.Applier, in *os.File) error {
	info, err := in.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	records, err := unix.Mmap(int(in.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map records: %w", err)
	}
	defer unix.Munmap(records)
	for rest := records; len(rest) > 0; {
		r, n, err := filetree.DecodeRecord(rest)
		if err != nil {
			return err
		}
		if err := applier.Apply(r); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// seal makes the file system read-only, whoever mounts it.
func (t *Target) seal() error {
	context, err := unix.Fspick(int(t.mount.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigSetFlag(context, "ro"); err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	if err := unix.FsconfigReconfigure(context); err != nil {
		return fmt.Errorf("make it read-only: %w", err)
	}
	return nil
}
