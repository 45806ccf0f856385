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

// sendFlat sends a directory to an Applier.
func sendFlat(t *testing.T, from string, skip []string, to *Applier) error {
	t.Helper()
	return SendFlat(t.Context(), from, skip, func(r Record) error {
		encoded, err := AppendRecord(nil, r)
		if err != nil {
			return err
		}
		decoded, _, err := DecodeRecord(encoded)
		if err != nil {
			return err
		}
		return to.Apply(decoded)
	})
}

func TestAFlatDirectoryArrives(t *testing.T) {
	files := map[string][]byte{
		"empty": nil, "small": []byte("small"), "zeros": make([]byte, 3*blockSize+1),
		"big": bytes.Repeat([]byte("big"), MaxData), "exact": bytes.Repeat([]byte{1}, MaxData), "skipped": []byte("skipped"),
	}
	from := t.TempDir()
	old := time.Unix(1e9, 5)
	for name, content := range files {
		path := filepath.Join(from, name)
		if err := errors.Join(os.WriteFile(path, content, 0o640), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	for _, bare := range []bool{false, true} {
		to := t.TempDir()
		// What is in the way is replaced, and not written through.
		outside := filepath.Join(t.TempDir(), "outside")
		if err := errors.Join(os.WriteFile(outside, []byte("outside"), 0o600), os.Symlink(outside, filepath.Join(to, "small")), os.Mkdir(filepath.Join(to, "big"), 0o700),
			unix.Mkfifo(filepath.Join(to, "exact"), 0o600)); err != nil {
			t.Fatal(err)
		}
		applier, err := NewApplier(to, ApplyOptions{Bare: bare})
		if err != nil {
			t.Fatal(err)
		}
		if err := sendFlat(t, from, []string{"skipped", "never"}, applier); err != nil {
			t.Fatal(err)
		}
		if err := applier.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(outside); string(got) != "outside" {
			t.Errorf("a file outside has %q, %v", got, err)
		}
		mode, aged := os.FileMode(0o640), true
		if bare {
			mode, aged = 0o600, false
		}
		for name, content := range files {
			got, err := os.ReadFile(filepath.Join(to, name))
			if name == "skipped" {
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("what is skipped is there: %v", err)
				}
				continue
			}
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s has %d bytes, want %d (%v)", name, len(got), len(content), err)
			}
			info, err := os.Lstat(filepath.Join(to, name))
			if err != nil || info.Mode() != mode || info.ModTime().Equal(old) != aged {
				t.Errorf("bare %v: %s is %v of %v, %v", bare, name, info.Mode(), info.ModTime(), err)
			}
		}
	}
}

func TestAFileIsAsLongAsItsRecordSaysWhateverContentComes(t *testing.T) {
	to := t.TempDir()
	applier, err := NewApplier(to, ApplyOptions{Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	defer applier.Close()
	for _, r := range []Record{
		{Type: TypeFile, Path: "sparse", Create: true, Size: 1 << 20, Meta: Meta{Mode: 0o600}},
		{Type: TypeData, Offset: 4096, Data: []byte("in the middle")},
		{Type: TypeFile, Path: "sparse", Size: 5000, Meta: Meta{Mode: 0o600}},
		{Type: TypeEnd, Sync: 1, Count: 3},
	} {
		if err := applier.Apply(r); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(to, "sparse")); err != nil || info.Size() != 5000 {
		t.Errorf("%v, %v", info.Size(), err)
	}
	if err := applier.Apply(Record{Type: TypeFile, Path: "f", Create: true, Size: 4, Meta: Meta{Mode: 0o600}}); err != nil {
		t.Fatal(err)
	}
	if err := applier.Apply(Record{Type: TypeData, Data: []byte("12345")}); !errors.Is(err, ErrRecord) {
		t.Errorf("more content than the file has: %v", err)
	}
}

func TestBareFilesCountForTheLimits(t *testing.T) {
	for name, opts := range map[string]ApplyOptions{
		"names": {Bare: true, MaxEntries: 3},
		"bytes": {Bare: true, MaxBytes: 3 * blockSize},
	} {
		applier, err := NewApplier(t.TempDir(), opts)
		if err != nil {
			t.Fatal(err)
		}
		failed := -1
		for i, file := range []string{"a", "b", "c", "d", "e"} {
			err := applier.Apply(Record{Type: TypeFile, Path: file, Create: true, Size: blockSize, Meta: Meta{Mode: 0o600}})
			if err == nil {
				err = applier.Apply(Record{Type: TypeData, Data: bytes.Repeat([]byte("x"), blockSize)})
			}
			if err != nil {
				if !errors.Is(err, ErrLimit) {
					t.Errorf("%s: %v", name, err)
				}
				failed = i
				break
			}
		}
		if failed != 3 {
			t.Errorf("%s: file %d was too much, want the fourth", name, failed)
		}
		applier.Close()
	}
}

func TestWhatIsNoFileIsNotFlat(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink("/etc/passwd", path) },
		"FIFO":      func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		dir := t.TempDir()
		if err := make(filepath.Join(dir, "it")); err != nil {
			t.Fatal(err)
		}
		if err := SendFlat(t.Context(), dir, nil, func(Record) error { return nil }); !errors.Is(err, ErrNotFlat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
