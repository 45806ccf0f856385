package cpuquota

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrForeign is wrapped by the error of a limit that somebody else has set since it was
// lowered, and that is theirs from then on.
var ErrForeign = errors.New("somebody else has set the limit of processor time meanwhile")

// record is what is on disk while a limit is lowered: which file, what was there, and what
// has been written there since.
type record struct {
	File string   `json:"file"`
	Was  string   `json:"was"`
	Ours []string `json:"ours"`
}

// Hold keeps one group below its limit. It is for one goroutine at a time.
type Hold struct {
	group *Group
	// path is where the record is kept.
	path    string
	record  record // its File is empty until the limit is lowered
	foreign bool
}

// NewHold prepares to hold a group. The record at path, whose directory is made, is there
// only while the limit is lowered.
func NewHold(g *Group, path string) *Hold { return &Hold{group: g, path: path} }

// Limit is what the group may use now, cores, 0 for no limit; and whether somebody else has
// set it since it was lowered.
func (h *Hold) Limit() (cores float64, foreign bool, err error) {
	l, err := h.group.now()
	if err != nil {
		return 0, h.foreign, err
	}
	h.foreign = h.foreign || h.lowered() && l.text != h.last()
	return l.cores, h.foreign, nil
}

// Lower limits the group to so many cores. It returns an error that wraps ErrForeign, and
// does nothing, if somebody else has set the limit since the call before.
func (h *Hold) Lower(cores float64) error {
	l, err := h.group.now()
	if err != nil {
		return err
	}
	if h.foreign = h.foreign || h.lowered() && l.text != h.last(); h.foreign {
		return fmt.Errorf("%s: %w", h.group.quota, ErrForeign)
	}
	next := record{File: h.group.quota, Was: h.record.Was, Ours: []string{h.group.text(cores, l.period)}}
	if h.lowered() {
		next.Ours = []string{h.last(), next.Ours[0]}
	} else {
		next.Was = l.text
	}
	if err := next.save(h.path); err != nil {
		return err
	}
	if err := os.WriteFile(next.File, []byte(next.Ours[len(next.Ours)-1]), 0); err != nil {
		if !h.lowered() {
			os.Remove(h.path)
		}
		return fmt.Errorf("lower the limit of processor time: %w", err)
	}
	h.record = next
	return nil
}

// Lowered tells whether the group is held below its limit, as far as the hold knows.
func (h *Hold) Lowered() bool { return h.lowered() && !h.foreign }

func (h *Hold) lowered() bool { return h.record.File != "" }

// last is what was written last.
func (h *Hold) last() string { return h.record.Ours[len(h.record.Ours)-1] }

// Release puts the limit back as it was, unless somebody else has set it meanwhile: then
// the error wraps ErrForeign, and all is done. After any other error the record is still
// there.
func (h *Hold) Release() error {
	if !h.lowered() {
		return nil
	}
	err := h.record.putBack()
	if err == nil || errors.Is(err, ErrForeign) {
		h.record = record{}
		os.Remove(h.path)
	}
	return err
}

// PutBack puts a limit back by the record that somebody has left who died; it does nothing
// if there is none, and removes it. Its errors are those of Release.
func PutBack(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("record of a lowered limit of processor time: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("record of a lowered limit of processor time %s: %w", path, err)
	}
	err = r.putBack()
	if err == nil || errors.Is(err, ErrForeign) {
		os.Remove(path)
	}
	return err
}

// putBack restores what was there, if what is there is ours. A group that is gone needs
// nothing.
func (r record) putBack() error {
	now, err := read(r.File)
	switch {
	case gone(err):
		return nil
	case err != nil:
		return err
	case now == r.Was: // it was never lowered, or is back already
		return nil
	case !slices.Contains(r.Ours, now):
		return fmt.Errorf("%s has %q: %w", r.File, now, ErrForeign)
	}
	if err := os.WriteFile(r.File, []byte(r.Was), 0); err != nil && !gone(err) {
		return fmt.Errorf("put back the limit of processor time: %w", err)
	}
	return nil
}

// gone tells whether a file of a control group is missing because the group is.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// save writes the record, all or nothing.
func (r record) save(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record of a lowered limit of processor time: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("record of a lowered limit of processor time: %w", err)
	}
	part := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(part, b, 0o600); err != nil {
		return fmt.Errorf("record of a lowered limit of processor time: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		os.Remove(part)
		return fmt.Errorf("record of a lowered limit of processor time: %w", err)
	}
	return nil
}
