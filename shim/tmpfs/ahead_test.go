package tmpfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// leaving makes a tmpfs with something in it, as one of a container that leaves, and says where it is.
func leaving(t *testing.T, options ...string) (*Source, string) {
	t.Helper()
	made, err := Mount{Path: "/dev", Options: options}.Make()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(made.Close)
	dir := mounted(t, made)
	fill(t, dir)
	source := &Source{Mount: made.Mount, tree: made.mount}
	t.Cleanup(source.forget)
	return source, dir
}

// arriving makes the mount of a Source that arrives, and says where it is.
func arriving(t *testing.T, source *Source) (*Target, string) {
	t.Helper()
	target, err := source.Mount.Make()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	return target, mounted(t, target)
}

func TestAMountIsFilledAheadAndChangedWhenItHasChanged(t *testing.T) {
	needRoot(t)
	for name, change := range map[string]func(dir string) error{
		"not at all":     func(string) error { return nil },
		"a node is gone": func(dir string) error { return os.Remove(filepath.Join(dir, "null")) },
		"a name is another kind of file": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "fifo")), os.Mkdir(filepath.Join(dir, "fifo"), 0o755))
		},
		"a new FIFO":     func(dir string) error { return unix.Mknod(filepath.Join(dir, "new"), unix.S_IFIFO|0o600, 0) },
		"a new socket":   func(dir string) error { return unix.Mknod(filepath.Join(dir, "log"), unix.S_IFSOCK|0o666, 0) },
		"another link":   func(dir string) error { return os.Link(filepath.Join(dir, "link"), filepath.Join(dir, "shm/third")) },
		"an owner":       func(dir string) error { return os.Lchown(filepath.Join(dir, "fd"), 7, 8) },
		"a mode":         func(dir string) error { return os.Chmod(filepath.Join(dir, "null"), 0o600) },
		"a name's place": func(dir string) error { return os.Rename(filepath.Join(dir, "shm"), filepath.Join(dir, "pts/shm")) },
		"content, neither its length nor its time": func(dir string) error {
			path := filepath.Join(dir, "link")
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("TEXT"), 200_000)
			return errors.Join(err, f.Close(), os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			source, dir := leaving(t, "rw", "size=65536k", "mode=755")
			packed, err := source.Ahead(t.Context(), 3, 1<<20)
			if err != nil || !source.IsAhead() {
				t.Fatalf("ahead: %v, %v", source.IsAhead(), err)
			}
			targets := make([]*Target, 4)
			var there string
			targets[3], there = arriving(t, source)
			if _, err := FillAll(targets, packed); err != nil {
				t.Fatal(err)
			}
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			var changes bytes.Buffer
			for range 2 { // it may be asked twice
				if err := source.Changes(t.Context(), 3, &changes); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(t.TempDir(), "changes")
			if err := os.WriteFile(file, changes.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			of, err := ChangeAll(targets, file)
			if err != nil || of != [MaxMounts]bool{3: true} {
				t.Fatalf("changed %v, %v", of, err)
			}
			if want, got := describe(t, dir), describe(t, there); !slices.Equal(want, got) {
				t.Errorf("there is\n%.2000q\nwant\n%.2000q", got, want)
			}
		})
	}
}

func TestAMountThatIsReadOnlyIsSoOnceItsChangesAreIn(t *testing.T) {
	needRoot(t)
	source, _ := leaving(t)
	packed, err := source.Ahead(t.Context(), 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	source.Options = []string{"ro"}
	target, there := arriving(t, source)
	targets := []*Target{target}
	if _, err := FillAll(targets, packed); err != nil {
		t.Fatal(err)
	}
	var changes bytes.Buffer
	if err := source.Changes(t.Context(), 0, &changes); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "changes")
	if err := os.WriteFile(file, changes.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ChangeAll(targets, file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(there, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a file is made with %v", err)
	}
}

func TestAMountThatHoldsMuchIsNotSentAhead(t *testing.T) {
	needRoot(t)
	source, _ := leaving(t)
	if packed, err := source.Ahead(t.Context(), 0, MaxAhead); !errors.Is(err, ErrTooMuch) || packed != nil || source.IsAhead() {
		t.Errorf("%d bytes, %v; it is ahead: %v", len(packed), err, source.IsAhead())
	}
}

func TestOnlyAMountThatIsStillThereIsTakenOver(t *testing.T) {
	open := func() *Source {
		f, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return &Source{tree: f}
	}
	packed := func() *Source {
		s := open()
		if _, err := s.Ahead(t.Context(), 0, 1<<20); err != nil {
			t.Fatal(err)
		}
		return s
	}
	kept, gone, big := packed(), packed(), open()
	again := []*Source{open(), nil, open(), open()}
	before := slices.Clone(again)
	TakeOver(again, []*Source{kept, gone, big, nil})
	defer Close(again)
	if again[0] != kept || again[1] != nil || again[2] != before[2] || again[3] != before[3] {
		t.Errorf("there are %v, were %v", again, before)
	}
	for name, s := range map[string]*Source{"the second of what was taken over": before[0], "one that is gone": gone, "one of which nothing is ahead": big} {
		if s.tree.Close() == nil {
			t.Errorf("%s was still open", name)
		}
	}
}

func TestWhatIsPackedIsNotTrusted(t *testing.T) {
	piece := func(index uint16, length uint32, records string) string {
		b := binary.LittleEndian.AppendUint16(nil, index)
		return string(binary.LittleEndian.AppendUint32(b, length)) + records
	}
	for name, packed := range map[string]string{
		"half a head":         piece(0, 0, "")[:3],
		"more than there is":  piece(0, 5, "text"),
		"a length beyond all": piece(0, 1<<32-1, "text"),
		"a mount beyond all":  piece(MaxMounts, 0, ""),
		"something behind":    piece(0, 0, "") + "x",
	} {
		if of, err := Unpack([]byte(packed), func(int, []byte) error { return nil }); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", name, of, err)
		}
	}
	if of, err := FillAll([]*Target{{}}, []byte(piece(1, 4, "text"))); !errors.Is(err, ErrMalformed) {
		t.Errorf("a mount beyond these: %v, %v", of, err)
	}
	if of, err := FillAll(nil, nil); err != nil || of != [MaxMounts]bool{} {
		t.Errorf("of nothing: %v, %v", of, err)
	}
	if _, err := ChangeAll(nil, filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("without a file: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("\x01\x00\x02\x00\x00\x00ab", 3)))
	f.Fuzz(func(t *testing.T, packed []byte) {
		left := len(packed)
		_, _ = Unpack(packed, func(index int, records []byte) error {
			if left -= pieceHead + len(records); left < 0 || index < 0 || index >= MaxMounts {
				t.Fatalf("mount %d has %d bytes of %d", index, len(records), len(packed))
			}
			return nil
		})
	})
}
