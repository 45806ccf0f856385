package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Uninstall undoes what Install did for the owner, and once for all of them
// removes it, and what the daemon left in its directories. It returns the files
// that it left because somebody else has changed them. With force it does not
// care whether pods or migrations still need Godwit.
func (i *Installer) Uninstall(ctx context.Context, force bool) (left []string, err error) {
	if _, err := os.Stat(i.recordFile()); errors.Is(err, fs.ErrNotExist) {
		i.Log.Info("nothing is installed")
		return nil, nil
	}
	release, err := i.lock()
	if err != nil {
		return nil, err
	}
	defer release()
	r, err := i.load()
	if err != nil {
		return nil, err
	}
	others := slices.DeleteFunc(slices.Clone(r.Owners), func(o string) bool { return o == i.Owner })
	if len(others) > 0 {
		i.Log.Info("others have installed it too: it stays", "owners", others)
		r.Owners = others
		return nil, i.save(r)
	}
	if !force {
		if err := i.checkUse(ctx); err != nil {
			return nil, err
		}
	}
	dropIn := r.DropIn
	if left, err = i.unconfigure(r); err != nil {
		return left, err
	}
	// A drop-in that somebody else has changed is still read.
	if err := i.restart(ctx, r, slices.Contains(left, dropIn)); err != nil {
		return left, err
	}
	for _, p := range slices.Clone(r.Files) {
		kept, err := i.removeFile(r, p)
		if err != nil {
			return left, err
		}
		left = append(left, kept...)
	}
	for _, dir := range slices.Backward(r.Dirs) {
		_ = os.Remove(i.at(dir)) // unless somebody else has put something there
	}
	for _, dir := range []string{i.RunDir, i.StateDir} { // with the record, which goes last
		if err := i.removeTree(dir); err != nil {
			return left, err
		}
	}
	return left, nil
}

// checkUse refuses while anything needs Godwit on this node.
func (i *Installer) checkUse(ctx context.Context) error {
	if !i.Offline {
		pods, err := i.Containerd.Clear(ctx)
		if err != nil {
			return fmt.Errorf("pods of this node: %w", err)
		}
		if len(pods) > 0 {
			return fmt.Errorf("%w for pods that run: %s: remove or move them", ErrInUse, strings.Join(pods, ", "))
		}
	}
	records, err := filepath.Glob(i.at(filepath.Join(i.StateDir, "migrations", "*")))
	if err != nil {
		return fmt.Errorf("migrations of this node: %w", err)
	}
	if len(records) > 0 {
		return fmt.Errorf("%w for migrations that have not ended: %s: see godwitctl status", ErrInUse, strings.Join(records, ", "))
	}
	return nil
}

// unconfigure takes drop-in and import out of containerd's configuration.
func (i *Installer) unconfigure(r *record) (left []string, err error) {
	if p := r.find(r.DropIn); p != nil {
		r.Restart = !i.Offline
		if left, err = i.removeFile(r, *p); err != nil {
			return left, err
		}
	}
	if r.Edit == nil {
		return left, nil
	}
	e := *r.Edit
	content, err := os.ReadFile(i.at(e.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && hashBytes(content) == e.Before:
		// Gone, or never changed: the edit was interrupted.
	case err != nil:
		return left, fmt.Errorf("containerd's configuration: %w", err)
	case hashBytes(content) != e.After:
		i.Log.Warn("containerd's configuration was changed since: it still imports drop-ins", "file", e.Path)
		left = append(left, e.Path)
	default:
		r.Restart = !i.Offline
		if err := i.revert(e, content); err != nil {
			return left, err
		}
	}
	r.Edit = nil
	return left, i.save(r)
}

func (i *Installer) revert(e edit, content []byte) error {
	if e.Made {
		if err := os.Remove(i.at(e.Path)); err != nil {
			return fmt.Errorf("containerd's configuration: %w", err)
		}
		return nil
	}
	info, err := os.Stat(i.at(e.Path))
	if err != nil {
		return fmt.Errorf("containerd's configuration: %w", err)
	}
	before := slices.Concat(content[:e.Offset], content[e.Offset+len(e.Inserted):])
	return writeWhole(i.at(e.Path), before, attributesOf(info))
}

// removeFile removes a file that is as it was placed, and names it otherwise.
func (i *Installer) removeFile(r *record, p placed) (left []string, err error) {
	hash, err := hashOf(i.at(p.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%s: %w", p.Path, err)
	case !slices.Contains(p.Hashes, hash):
		i.Log.Warn("changed by somebody else since: left", "file", p.Path)
		left = append(left, p.Path)
	default:
		if err := os.Remove(i.at(p.Path)); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Path, err)
		}
		i.Log.Info("removed", "file", p.Path)
	}
	r.forget(p.Path)
	return left, i.save(r)
}

// removeTree removes a directory of the daemon's, and the mounts in it.
func (i *Installer) removeTree(dir string) error {
	if !i.Offline { // in an image nothing was ever mounted, and there may be no /proc
		if err := unmountBelow(i.at(dir)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(i.at(dir)); err != nil {
		return fmt.Errorf("directory of the daemon: %w", err)
	}
	return nil
}

func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("mounts in %s: %w", dir, err)
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}
