// Package images reads and writes the few of CRIU's image files that describe
// memory: pagemap-PID.img and pagemap-shmem-ID.img, which say what pages there
// are, mm-PID.img, which says what areas they lie in, and what core-TID.img says of
// memory that the kernel writes by itself. The pages themselves
// are in pages-ID.img, whose path this package knows and whose content it leaves
// to its callers; all other images are package criu's.
//
// Pagemaps are decoded by hand, as go-criu v7 does not know the field that CRIU
// 4.2 keeps a page count in (nr_pages, images/pagemap.proto) and reads 0 pages.
//
// An image may come from a peer: every size, count and address is bounded, a name
// is made of numbers only, and a link in an image's place is not followed.
package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrFormat is wrapped by every error about the bytes of an image.
var ErrFormat = errors.New("bad CRIU image")

// Magic numbers (criu/include/magic.h): every image begins with magicCommon,
// then the magic of its type. Shared memory has the pagemap's as well.
const (
	magicCommon  = 0x54564319
	magicPagemap = 0x56084025
	magicMM      = 0x57492820
	magicCore    = 0x55053847
	magicTree    = 0x50273030
)

// PagesID names the pages file that belongs to a pagemap.
type PagesID uint32

// PagesPath is the pages file with this id in a directory of images.
func PagesPath(dir string, id PagesID) string {
	return filepath.Join(dir, "pages-"+strconv.FormatUint(uint64(id), 10)+".img")
}

// PagemapPath is the pagemap of the process with this pid, in the pid namespace
// that CRIU restores it in.
func PagemapPath(dir string, pid uint64) string {
	return filepath.Join(dir, "pagemap-"+strconv.FormatUint(pid, 10)+".img")
}

// SharedPagemapPath is the pagemap of the shared memory with this id.
func SharedPagemapPath(dir string, id uint64) string {
	return filepath.Join(dir, "pagemap-shmem-"+strconv.FormatUint(id, 10)+".img")
}

// MMPath is the file that lists the memory areas of the process with this pid.
func MMPath(dir string, pid uint64) string {
	return filepath.Join(dir, "mm-"+strconv.FormatUint(pid, 10)+".img")
}

// Listed is a pagemap found in a directory of images.
type Listed struct {
	Path   string
	Shared bool   // of shared memory rather than of a process
	ID     uint64 // pid, or id of the shared memory
}

// ListPagemaps finds the pagemaps in a directory of images, in the order of
// their names. A name in their place that is no plain file is an error.
func ListPagemaps(dir string) ([]Listed, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the pagemaps: %w", err)
	}
	var found []Listed
	for _, e := range entries {
		l, ok := parsePagemapName(e.Name())
		if !ok {
			continue
		}
		l.Path = filepath.Join(dir, e.Name())
		if !e.Type().IsRegular() {
			return nil, fmt.Errorf("pagemap %s is no plain file: %w", l.Path, ErrFormat)
		}
		found = append(found, l)
	}
	return found, nil
}

// parsePagemapName takes a pagemap's name apart. A number is taken only as CRIU
// writes it, so that no two names mean the same.
func parsePagemapName(name string) (Listed, bool) {
	var l Listed
	s, ok := strings.CutPrefix(name, "pagemap-")
	if !ok {
		return l, false
	}
	if s, ok = strings.CutSuffix(s, ".img"); !ok {
		return l, false
	}
	s, l.Shared = strings.CutPrefix(s, "shmem-")
	id, err := strconv.ParseUint(s, 10, 64)
	if err != nil || id == 0 && !l.Shared || strconv.FormatUint(id, 10) != s {
		return l, false
	}
	l.ID = id
	return l, true
}

// Open opens an image for reading, if it is a plain file.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("open image %s: no plain file: %w", path, ErrFormat)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
