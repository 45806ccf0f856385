package shim

import (
	"os"
	"path/filepath"
	"testing"
)

func TestADirectoryForCRIUGoesUnlessItIsTheContainers(t *testing.T) {
	made := func(t *testing.T) (*oldRoot, string) {
		root := t.TempDir()
		r, err := makeOldRoot(root)
		if err != nil || r == nil {
			t.Fatalf("%v, %v", r, err)
		}
		return r, filepath.Join(root, "tmp")
	}
	t.Run("nobody's", func(t *testing.T) {
		r, path := made(t)
		if err := r.remove(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("it is still there: %v", err)
		}
		if err := r.remove(); err != nil {
			t.Errorf("once more: %v", err)
		}
	})
	for name, take := range map[string]func(path string) error{
		"has other attributes": func(path string) error { return os.Chmod(path, 0o1777) },
		"holds a file":         func(path string) error { return os.WriteFile(filepath.Join(path, "x"), nil, 0o600) },
		"is another": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, path := made(t)
			if err := take(path); err != nil {
				t.Fatal(err)
			}
			if err := r.remove(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("it is gone: %v", err)
			}
		})
	}
	t.Run("there was one", func(t *testing.T) {
		root := t.TempDir()
		if err := os.Symlink("elsewhere", filepath.Join(root, "tmp")); err != nil {
			t.Fatal(err)
		}
		r, err := makeOldRoot(root)
		if r != nil || err != nil {
			t.Errorf("%v, %v", r, err)
		}
		if err := r.remove(); err != nil {
			t.Error(err)
		}
	})
}
