package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// file is one that has to be in its place.
type file struct {
	path   string
	hash   string
	mode   fs.FileMode
	source string // where it is copied from, or else
	bytes  []byte
}

func fromSource(source, path string) (file, error) {
	hash, err := hashOf(source)
	return file{path: path, hash: hash, mode: 0o755, source: source}, err
}

func fromContent(path string, b []byte) file {
	return file{path: path, hash: hashBytes(b), mode: 0o644, bytes: b}
}

func (f file) open() (io.ReadCloser, error) {
	if f.source == "" {
		return io.NopCloser(bytes.NewReader(f.bytes)), nil
	}
	return os.Open(f.source)
}

func hashOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func hashBytes(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// holds says whether the file is in its place.
func (i *Installer) holds(f file) bool {
	hash, err := hashOf(i.at(f.path))
	return err == nil && hash == f.hash
}

// checkPlace fails if something is in the way that is neither ours nor the same.
func (i *Installer) checkPlace(r *record, f file) error {
	info, err := os.Lstat(i.at(f.path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is there and %w: remove it", f.path, ErrForeign)
	}
	hash, err := hashOf(i.at(f.path))
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if hash == f.hash {
		return nil
	}
	if p := r.find(f.path); p == nil || !slices.Contains(p.Hashes, hash) {
		return fmt.Errorf("%s is there and %w, or was changed since: remove it, or keep it and install by hand", f.path, ErrForeign)
	}
	return nil
}

// place puts a file in its place, unless it is there. It is never written to
// where it is: a shim that runs goes on with the file that it was started from.
func (i *Installer) place(r *record, f file) error {
	if i.holds(f) {
		return nil // ours, or the same from somebody else, who keeps it
	}
	if err := i.makeDir(r, filepath.Dir(f.path)); err != nil {
		return err
	}
	r.note(f.path, f.hash)
	if err := i.save(r); err != nil {
		return err
	}
	from, err := f.open()
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	defer from.Close()
	if err := write(i.at(f.path), from, attributes{mode: f.mode}); err != nil {
		return err
	}
	i.Log.Info("placed", "file", f.path)
	r.settle(f.path, f.hash)
	return i.save(r)
}

// makeDir makes a directory and records each that was not there.
func (i *Installer) makeDir(r *record, dir string) error {
	var missing []string
	for d := dir; d != "/" && d != "."; d = filepath.Dir(d) {
		if _, err := os.Stat(i.at(d)); err == nil {
			break
		}
		missing = append(missing, d)
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Reverse(missing)
	r.Dirs = append(r.Dirs, missing...)
	if err := i.save(r); err != nil {
		return err
	}
	if err := os.MkdirAll(i.at(dir), 0o755); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	return nil
}

// attributes are a file's beside its content.
type attributes struct {
	mode     fs.FileMode
	owned    bool // uid and gid are to be set
	uid, gid int
}

func attributesOf(info fs.FileInfo) attributes {
	a := attributes{mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		a.owned, a.uid, a.gid = true, int(st.Uid), int(st.Gid)
	}
	return a
}

func writeWhole(path string, b []byte, a attributes) error { return write(path, bytes.NewReader(b), a) }

// write replaces a file in one step, so that nobody sees half of it, also after
// a power cut.
func write(path string, from io.Reader, a attributes) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = io.Copy(f, from)
	if a.owned {
		err = errors.Join(err, f.Chown(a.uid, a.gid))
	}
	err = errors.Join(err, f.Chmod(a.mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
