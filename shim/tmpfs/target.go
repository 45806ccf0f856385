package tmpfs

import (
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
	// applier makes what records say, from the first to Finish.
	applier *filetree.Applier
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
	attributes := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if barren(m.Options) {
		// Of several mounts of one file system CRIU gives the first its attributes, and the others only what differs from
		// that (criu/mount.c, do_bind_mount): they keep these.
		attributes = 0
	}
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
		t.Close()
	}
}

// Close lets go of it. What is attached stays.
func (t *Target) Close() {
	if t.applier != nil {
		t.applier.Close()
		t.applier = nil
	}
	t.mount.Close()
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
	records, unmap, err := mapped(in)
	if err != nil {
		return fmt.Errorf("records of mount %s: %w", t.Path, err)
	}
	defer unmap()
	if err := t.Apply(records); err != nil {
		return err
	}
	return t.Finish()
}

// Apply brings what is in the mount further, by records that are a peer's: those of one Source, in their order.
func (t *Target) Apply(records []byte) (err error) {
	if t.applier == nil {
		t.applier, err = filetree.NewApplier(descriptorPath(t.mount), filetree.ApplyOptions{MaxEntries: maxEntries, AllowDevices: true})
	}
	for rest := records; err == nil && len(rest) > 0; {
		var r filetree.Record
		var n int
		if r, n, err = filetree.DecodeRecord(rest); err == nil {
			err = t.applier.Apply(r)
		}
		rest = rest[n:]
	}
	if err != nil {
		return fmt.Errorf("fill mount %s: %w", t.Path, err)
	}
	return nil
}

// Finish says that the mount holds all that it is to hold.
func (t *Target) Finish() (err error) {
	if t.applier != nil {
		err = t.applier.Close()
		t.applier = nil
	}
	if err == nil && slices.Contains(t.Options, "ro") {
		err = t.seal()
	}
	if err != nil {
		return fmt.Errorf("fill mount %s: %w", t.Path, err)
	}
	return nil
}

// mapped is what is in a file, until unmap.
func mapped(in *os.File) (content []byte, unmap func(), err error) {
	info, err := in.Stat()
	if err != nil || info.Size() == 0 {
		return nil, func() {}, err
	}
	content, err = unix.Mmap(int(in.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, fmt.Errorf("map records: %w", err)
	}
	return content, func() { _ = unix.Munmap(content) }, nil
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
