package filetree

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDiffSeesEveryDifference(t *testing.T) {
	changes := map[string]func(p func(string) string) error{
		"content": func(p func(string) string) error { return os.WriteFile(p("f"), []byte("B"), 0o644) },
		"mode":    func(p func(string) string) error { return os.Chmod(p("f"), 0o600) },
		"owner":   func(p func(string) string) error { return os.Chown(p("f"), 3, 3) },
		"name":    func(p func(string) string) error { return os.Rename(p("f"), p("g")) },
		"link":    func(p func(string) string) error { return errors.Join(os.Remove(p("l")), os.Symlink("y", p("l"))) },
		"type":    func(p func(string) string) error { return errors.Join(os.Remove(p("l")), unix.Mkfifo(p("l"), 0o777)) },
		"group": func(p func(string) string) error {
			return errors.Join(os.Remove(p("h")), os.WriteFile(p("h"), []byte("A"), 0o644))
		},
		"attribute": func(p func(string) string) error { return unix.Lsetxattr(p("f"), "user.x", nil, 0) },
		"time":      func(p func(string) string) error { return lutimes(p("d"), time.Unix(5, 5)) },
		"space": func(p func(string) string) error {
			return os.WriteFile(p("sparse"), bytes.Repeat([]byte{0}, 4<<20), 0o644)
		},
	}
	for name, change := range changes {
		var dirs [2]string
		for i := range dirs {
			dirs[i] = t.TempDir()
			p := func(n string) string { return filepath.Join(dirs[i], n) }
			must(t, os.WriteFile(p("f"), []byte("A"), 0o644))
			must(t, os.Link(p("f"), p("h")))
			must(t, os.Symlink("x", p("l")))
			must(t, os.Mkdir(p("d"), 0o755))
			must(t, os.WriteFile(p("sparse"), nil, 0o644))
			must(t, os.Truncate(p("sparse"), 4<<20))
			if i == 1 {
				must(t, change(p))
			}
			if name != "time" {
				for _, n := range []string{"f", "g", "h", "l", "d", "sparse", "."} {
					if err := lutimes(p(n), time.Unix(9, 9)); err != nil && !os.IsNotExist(err) {
						t.Fatal(err)
					}
				}
			}
		}
		lines, err := Diff(dirs[0], dirs[1])
		if err != nil || len(lines) == 0 {
			t.Errorf("%s: no difference seen, error %v", name, err)
		}
	}
}
