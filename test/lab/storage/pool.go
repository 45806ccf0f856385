package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors that the driver answers with a status of their own.
var (
	// ErrNoVolume is returned for a volume that the pool does not have.
	ErrNoVolume = errors.New("there is no such volume")
	// ErrAttachedElsewhere is returned when a disk is to be attached to a second node.
	ErrAttachedElsewhere = errors.New("it is attached to another node")
	// ErrNotAttached is returned when a volume is to be mounted on a node that it is not attached to.
	ErrNotAttached = errors.New("it is not attached to this node")
	// ErrMounted is returned when a disk is to be detached or mounted while a mount has it.
	ErrMounted = errors.New("its file system is mounted")
)

// Kind says what a volume is.
type Kind string

// The kinds of volumes.
const (
	Disk  Kind = "disk"
	Share Kind = "share"
)

// Pool is the storage in a directory: of each volume a directory with its image or its content, and one with a file for each
// node that it is attached to. All that there is to know of a volume is in it; processes that use it at the same time keep each
// other out by locks on its files.
type Pool struct{ dir string }

// Open returns the pool in a directory, which need not be there before the first Create.
func Open(dir string) Pool { return Pool{dir: dir} }

var volumeName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,127}$`)

func (p Pool) path(volume string, more ...string) string {
	return filepath.Join(append([]string{p.dir, volume}, more...)...)
}

func (p Pool) image(volume string) string   { return p.path(volume, "disk.img") }
func (p Pool) content(volume string) string { return p.path(volume, "content") }

// Content is the directory of a Share.
func (p Pool) Content(volume string) string { return p.content(volume) }

// Create makes a volume that is attached nowhere. A disk has the given size in bytes; a share has no limit.
func (p Pool) Create(ctx context.Context, volume string, kind Kind, size int64) error {
	if !volumeName.MatchString(volume) {
		return fmt.Errorf("volume %q: want lower-case letters, digits, dots and dashes", volume)
	}
	if err := p.create(ctx, volume, kind, size); err != nil {
		return fmt.Errorf("volume %s: %w", volume, err)
	}
	return nil
}

func (p Pool) create(ctx context.Context, volume string, kind Kind, size int64) error {
	if _, err := os.Stat(p.path(volume)); err == nil {
		return fs.ErrExist
	}
	tmp := Pool{dir: p.path(".new-" + volume)} // no volume is called so
	if err := os.RemoveAll(tmp.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp.path(volume, "attached"), 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(tmp.dir)
	switch kind {
	case Disk:
		if err := tmp.makeImage(ctx, volume, size); err != nil {
			return err
		}
	case Share:
		if err := os.Mkdir(tmp.content(volume), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(tmp.content(volume), 0o777); err != nil {
			return err
		}
	default:
		return fmt.Errorf("no kind of volume is called %q", kind)
	}
	return os.Rename(tmp.path(volume), p.path(volume))
}

func (p Pool) makeImage(ctx context.Context, volume string, size int64) error {
	f, err := os.OpenFile(p.image(volume), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", p.image(volume)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Remove removes a volume that is attached nowhere.
func (p Pool) Remove(ctx context.Context, volume string) error {
	unlock, _, err := p.lock(ctx, volume)
	if err != nil {
		return err
	}
	defer unlock()
	nodes, err := p.attachments(volume)
	if err != nil {
		return err
	}
	if len(nodes) > 0 {
		return fmt.Errorf("volume %s is attached to %s", volume, strings.Join(nodes, ", "))
	}
	if err := p.free(volume); err != nil {
		return err
	}
	if err := os.RemoveAll(p.path(volume)); err != nil {
		return fmt.Errorf("volume %s: %w", volume, err)
	}
	return nil
}

// Attach records that a node may mount a volume. A disk's is the only one. Doing it again changes nothing.
func (p Pool) Attach(ctx context.Context, volume, node string) error {
	unlock, kind, err := p.lock(ctx, volume)
	if err != nil {
		return err
	}
	defer unlock()
	nodes, err := p.attachments(volume)
	if err != nil {
		return err
	}
	if slices.Contains(nodes, node) {
		return nil
	}
	if kind == Disk && len(nodes) > 0 {
		return fmt.Errorf("volume %s to node %s: %w, %s", volume, node, ErrAttachedElsewhere, strings.Join(nodes, ", "))
	}
	f, err := os.Create(p.path(volume, "attached", filepath.Base(node)))
	if err != nil {
		return fmt.Errorf("attach volume %s: %w", volume, err)
	}
	return f.Close()
}

// Detach takes a volume from a node; from one that does not have it, nothing is taken. A disk that is mounted is not taken.
func (p Pool) Detach(ctx context.Context, volume, node string) error {
	unlock, kind, err := p.lock(ctx, volume)
	if err != nil {
		return err
	}
	defer unlock()
	file := p.path(volume, "attached", filepath.Base(node))
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if kind == Disk {
		if err := p.free(volume); err != nil {
			return err
		}
	}
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("detach volume %s: %w", volume, err)
	}
	return nil
}

// Attachments are the nodes that a volume is attached to, in the order of their names.
func (p Pool) Attachments(volume string) ([]string, error) {
	if _, err := p.kind(volume); err != nil {
		return nil, err
	}
	return p.attachments(volume)
}

func (p Pool) attachments(volume string) ([]string, error) {
	entries, err := os.ReadDir(p.path(volume, "attached"))
	if err != nil {
		return nil, fmt.Errorf("attachments of volume %s: %w", volume, err)
	}
	nodes := make([]string, len(entries))
	for i, e := range entries {
		nodes[i] = e.Name()
	}
	return nodes, nil
}

// kind finds a volume.
func (p Pool) kind(volume string) (Kind, error) {
	if !volumeName.MatchString(volume) {
		return "", fmt.Errorf("volume %q: %w", volume, ErrNoVolume)
	}
	for path, kind := range map[string]Kind{p.image(volume): Disk, p.content(volume): Share} {
		if _, err := os.Stat(path); err == nil {
			return kind, nil
		}
	}
	return "", fmt.Errorf("volume %s: %w", volume, ErrNoVolume)
}

// free says why a disk is not, if a loop device has it.
func (p Pool) free(volume string) error {
	loops, err := loopsOf(p.image(volume))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", volume, err)
	}
	if len(loops) > 0 {
		return fmt.Errorf("volume %s: %w by %s", volume, ErrMounted, strings.Join(loops, ", "))
	}
	return nil
}

// lock keeps everybody else from attaching, detaching or mounting a volume until unlock.
func (p Pool) lock(ctx context.Context, volume string) (unlock func(), kind Kind, err error) {
	if kind, err = p.kind(volume); err != nil {
		return nil, "", err
	}
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	f, err := os.Open(p.path(volume))
	if err != nil {
		return nil, "", fmt.Errorf("volume %s: %w", volume, err)
	}
	// It is held for a mount at most.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, "", fmt.Errorf("lock volume %s: %w", volume, err)
	}
	return func() { f.Close() }, kind, nil
}
