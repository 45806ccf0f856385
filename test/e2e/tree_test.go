package e2e

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/workload"
)

func TestFileTreeIsTheSameToTheByte(t *testing.T) {
	a, b := nodes(t)
	p := program(t, a, workload.Filer, workload.Port, "inotify")
	p.check(workload.Port)
	time.Sleep(3 * time.Second) // of work on files
	p.ask(workload.Port, "pause")
	before := manifest(p)
	p.moveTo(b)
	same(t, "as the program sees it after the move", before, manifest(p))
	same(t, "as node b sees it", before, walk(t, p.rootfs(workload.Filer), "/work", "/lower"))
	p.ask(workload.Port, "resume")
	p.check(workload.Port)
}

// manifest is what filer says of all names below its directories, sorted.
func manifest(p *pod) []string {
	p.t.Helper()
	lines := strings.Split(p.ask(workload.Port, "manifest"), "\n")
	if len(lines) < 100 || lines[len(lines)-1] != "end" {
		p.t.Fatalf("a manifest of %d lines: %q", len(lines), lines[len(lines)-1])
	}
	lines = lines[:len(lines)-1]
	slices.Sort(lines)
	return lines
}

func same(t *testing.T, how string, want, have []string) {
	t.Helper()
	for _, line := range want {
		if _, ok := slices.BinarySearch(have, line); !ok {
			t.Errorf("%s: missing, or another: %s", how, line)
		}
	}
	for _, line := range have {
		if _, ok := slices.BinarySearch(want, line); !ok {
			t.Errorf("%s: too much, or another: %s", how, line)
		}
	}
}

// walk says of a tree what filer's manifest does.
func walk(t *testing.T, root string, dirs ...string) []string {
	t.Helper()
	var lines []string
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			line, err := entry(root, path)
			lines = append(lines, line)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(lines)
	return lines
}

func entry(root, path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("no stat")
	}
	size, links, sum, extra := int64(0), st.Nlink, uint64(0), "-"
	switch {
	case info.Mode().IsRegular():
		size = info.Size()
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		h := fnv.New64a()
		h.Write(content)
		sum = h.Sum64()
		value := make([]byte, 299)
		if n, err := unix.Lgetxattr(path, "user.number", value); err == nil {
			extra = string(value[:n])
		}
	case info.IsDir():
		links = 0
	case info.Mode()&fs.ModeSymlink != 0:
		if extra, err = os.Readlink(path); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s %o %d:%d %d %d %x %s", strings.TrimPrefix(path, root), st.Mode, st.Uid, st.Gid, size, links, sum, extra), nil
}
