package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// recordName is the record's file in the state directory.
const recordName = "install.json"

// recordVersion is what this package writes, and the newest that it reads.
const recordVersion = 1

// record is what Godwit has placed on the node. It is written before each step
// with what that step may leave.
type record struct {
	Version int      `json:"version"`
	Owners  []string `json:"owners"`
	// Files are the files that were placed, by path.
	Files []placed `json:"files"`
	// Dirs are the directories that were made for them, the outer ones first.
	Dirs []string `json:"dirs,omitempty"`
	// DropIn is which of the files is containerd's drop-in.
	DropIn string `json:"drop_in,omitempty"`
	// Edit is what was done to containerd's configuration, if anything.
	Edit *edit `json:"edit,omitempty"`
	// Restart: containerd has not been restarted since its configuration changed.
	Restart bool `json:"restart,omitempty"`
}

// placed is one file.
type placed struct {
	Path string `json:"path"`
	// Hashes are of what was placed, SHA-256 in hex: one, or, if a replacement was
	// interrupted, the old and the new.
	Hashes []string `json:"hashes"`
}

func (i *Installer) recordFile() string { return i.at(filepath.Join(i.StateDir, recordName)) }

func (i *Installer) load() (*record, error) {
	b, err := os.ReadFile(i.recordFile())
	if errors.Is(err, fs.ErrNotExist) {
		return &record{Version: recordVersion}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record of what is installed: %w", err)
	}
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("record of what is installed, %s: %w", i.recordFile(), err)
	}
	if r.Version > recordVersion {
		return nil, fmt.Errorf("record of what is installed, %s: version %d is of a later Godwit, which has to uninstall it", i.recordFile(), r.Version)
	}
	return r, nil
}

func (i *Installer) save(r *record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("record of what is installed: %w", err)
	}
	if err := writeWhole(i.recordFile(), append(b, '\n'), attributes{mode: 0o600}); err != nil {
		return fmt.Errorf("record of what is installed: %w", err)
	}
	return nil
}

func (r *record) find(path string) *placed {
	at := slices.IndexFunc(r.Files, func(p placed) bool { return p.Path == path })
	if at < 0 {
		return nil
	}
	return &r.Files[at]
}

// note adds a hash that the file may have from now on.
func (r *record) note(path, hash string) {
	p := r.find(path)
	if p == nil {
		r.Files = append(r.Files, placed{Path: path})
		p = &r.Files[len(r.Files)-1]
	}
	if !slices.Contains(p.Hashes, hash) {
		p.Hashes = append(p.Hashes, hash)
	}
}

// settle says that the file has this hash and no other.
func (r *record) settle(path, hash string) { r.find(path).Hashes = []string{hash} }

func (r *record) forget(path string) {
	r.Files = slices.DeleteFunc(r.Files, func(p placed) bool { return p.Path == path })
}
