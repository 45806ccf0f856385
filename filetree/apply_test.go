package filetree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newApplier(t testing.TB, root string, opts ApplyOptions) *Applier {
	t.Helper()
	a, err := NewApplier(root, opts)
	must(t, err)
	t.Cleanup(func() { must(t, a.Close()) })
	return a
}

// applyAll returns the first error.
func applyAll(a *Applier, records ...Record) error {
	for _, r := range records {
		if err := a.Apply(r); err != nil {
			return err
		}
	}
	return nil
}

func TestNoPathGoesThroughASymbolicLinkOrAMount(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("keep"), 0o644))
	through := []Record{
		{Type: TypeFile, Path: "link/f", Create: true},
		{Type: TypeFile, Path: "link/f"},
		{Type: TypeFile, Path: "to file"},
		{Type: TypeDir, Path: "link/d"},
		{Type: TypeRemove, Path: "link/f"},
		{Type: TypeMeta, Path: "link/f", Meta: Meta{Mode: 0o777}},
		{Type: TypeLink, Path: "g", Target: "link/f"},
		{Type: TypeRename, Path: "g", Target: "link/f"},
		{Type: TypeRename, Path: "link/g", Target: "own"},
		{Type: TypeSymlink, Path: "link/s", Target: "x"},
		{Type: TypeNode, Path: "link/p", NodeType: unix.S_IFIFO},
		{Type: TypeFile, Path: "inner/link/f", Create: true},
	}
	for _, r := range through {
		a := newApplier(t, t.TempDir(), ApplyOptions{})
		must(t, applyAll(a,
			Record{Type: TypeSymlink, Path: "link", Target: outside},
			Record{Type: TypeSymlink, Path: "to file", Target: outside + "/f"},
			Record{Type: TypeDir, Path: "inner", Meta: Meta{Mode: 0o755}},
			Record{Type: TypeSymlink, Path: "inner/link", Target: "../link"},
			Record{Type: TypeFile, Path: "own", Create: true}))
		if err := a.Apply(r); !errors.Is(err, ErrDiverged) {
			t.Errorf("%v %q: error %v, want ErrDiverged", r.Type, r.Path, err)
		}
	}
	names, err := sortedNames(outside)
	must(t, err)
	content, err := os.ReadFile(filepath.Join(outside, "f"))
	must(t, err)
	st, err := os.Stat(filepath.Join(outside, "f"))
	must(t, err)
	if len(names) != 1 || string(content) != "keep" || st.Mode().Perm() != 0o644 {
		t.Errorf("outside: %q, %q, mode %v", names, content, st.Mode())
	}

	root := t.TempDir()
	needOverlay(t)
	must(t, os.Mkdir(filepath.Join(root, "mnt"), 0o755))
	must(t, unix.Mount(outside, filepath.Join(root, "mnt"), "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(filepath.Join(root, "mnt"), 0)) }()
	for _, r := range []Record{
		{Type: TypeFile, Path: "mnt/f", Create: true},
		{Type: TypeRemove, Path: "mnt"},
		{Type: TypeDir, Path: "mnt", Opaque: true},
	} {
		if err := newApplier(t, root, ApplyOptions{}).Apply(r); err == nil {
			t.Errorf("%v %q into a mount", r.Type, r.Path)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, "f")); err != nil {
		t.Error(err)
	}
}

func TestRemovingALinkLeavesWhatItLeadsTo(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "f"), nil, 0o644))
	a := newApplier(t, t.TempDir(), ApplyOptions{})
	must(t, applyAll(a,
		Record{Type: TypeDir, Path: "d", Meta: Meta{Mode: 0o755}},
		Record{Type: TypeSymlink, Path: "d/l", Target: outside},
		Record{Type: TypeRemove, Path: "d"},
		Record{Type: TypeSymlink, Path: "l", Target: outside},
		Record{Type: TypeMeta, Path: "l", Meta: Meta{UID: 1, Mode: 0o777}},
		Record{Type: TypeDir, Path: "l", Meta: Meta{Mode: 0o755}}))
	if st, err := os.Stat(filepath.Join(outside, "f")); err != nil || st.Sys() == nil {
		t.Error(err)
	}
	var st unix.Stat_t
	must(t, unix.Stat(outside, &st))
	if st.Uid != uint32(os.Getuid()) {
		t.Error("the owner of what the link leads to changed")
	}
}

func TestLimitsHold(t *testing.T) {
	data := Record{Type: TypeData, Data: randomBytes(64 << 10)}
	file := func(path string) Record {
		return Record{Type: TypeFile, Path: path, Create: true, Size: 1 << 30}
	}
	at := func(offset int64) Record { r := data; r.Offset = offset; return r }
	for _, tc := range []struct {
		name    string
		opts    ApplyOptions
		records []Record
		err     error
	}{
		{"bytes in one file", ApplyOptions{MaxBytes: 100 << 10}, []Record{file("f"), data, at(64 << 10)}, ErrLimit},
		{"bytes in two files", ApplyOptions{MaxBytes: 100 << 10}, []Record{file("f"), data, file("g"), data}, ErrLimit},
		{"the same bytes again", ApplyOptions{MaxBytes: 100 << 10}, []Record{file("f"), data, data, {Type: TypeFile, Path: "f", Size: 1 << 20}, data}, nil},
		{"bytes given back", ApplyOptions{MaxBytes: 100 << 10}, []Record{file("f"), data, file("f"), data, {Type: TypeRemove, Path: "f"}, file("g"), data}, nil},
		{"a large hole", ApplyOptions{MaxBytes: 100 << 10}, []Record{file("f"), data, {Type: TypeZero, Offset: 100, Length: 1 << 29}}, nil},
		{"what was there is no credit", ApplyOptions{MaxBytes: 100 << 10}, []Record{{Type: TypeRemove, Path: "old"}, file("f"), data, file("g"), data}, ErrLimit},
		{"names", ApplyOptions{MaxEntries: 2}, []Record{file("f"), {Type: TypeSymlink, Path: "s", Target: "x"}, {Type: TypeDir, Path: "d"}}, ErrLimit},
		{"links", ApplyOptions{MaxEntries: 2}, []Record{file("f"), {Type: TypeLink, Path: "g", Target: "f"}, {Type: TypeLink, Path: "h", Target: "f"}}, ErrLimit},
		{"names given back", ApplyOptions{MaxEntries: 2}, []Record{file("f"), {Type: TypeDir, Path: "d"}, {Type: TypeRemove, Path: "d"}, file("g"), file("g")}, nil},
		{"a device", ApplyOptions{}, []Record{{Type: TypeNode, Path: "n", NodeType: unix.S_IFCHR, Major: 1, Minor: 3}}, ErrDevice},
		{"a fifo", ApplyOptions{}, []Record{{Type: TypeNode, Path: "n", NodeType: unix.S_IFIFO}}, nil},
	} {
		root := t.TempDir()
		must(t, os.WriteFile(filepath.Join(root, "old"), data.Data, 0o644))
		if err := applyAll(newApplier(t, root, tc.opts), tc.records...); !errors.Is(err, tc.err) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.err)
		}
	}
}

func TestRecordsOutOfPlaceAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name    string
		records []Record
		err     error
	}{
		{"data without a file", []Record{{Type: TypeData, Data: []byte("x")}}, ErrRecord},
		{"data after another record", []Record{{Type: TypeFile, Path: "f", Create: true, Size: 1}, {Type: TypeRemove, Path: "g"}, {Type: TypeData, Data: []byte("x")}}, ErrRecord},
		{"data beyond the size", []Record{{Type: TypeFile, Path: "f", Create: true, Size: 3}, {Type: TypeData, Offset: 2, Data: []byte("xx")}}, ErrRecord},
		{"a file that is not there", []Record{{Type: TypeFile, Path: "f"}}, ErrDiverged},
		{"a fifo as a file", []Record{{Type: TypeNode, Path: "f", NodeType: unix.S_IFIFO}, {Type: TypeFile, Path: "f"}}, ErrDiverged},
		{"no such directory", []Record{{Type: TypeDir, Path: "a/b"}}, ErrDiverged},
		{"metadata of nothing", []Record{{Type: TypeMeta, Path: "f"}}, ErrDiverged},
		{"a link to nothing", []Record{{Type: TypeLink, Path: "f", Target: "g"}}, ErrDiverged},
		{"a link to a directory", []Record{{Type: TypeDir, Path: "d"}, {Type: TypeLink, Path: "f", Target: "d"}}, ErrDiverged},
		{"a directory's rename", []Record{{Type: TypeDir, Path: "d"}, {Type: TypeRename, Path: "f", Target: "d"}}, ErrDiverged},
		{"a link to itself", []Record{{Type: TypeFile, Path: "f", Create: true}, {Type: TypeLink, Path: "f", Target: "f"}}, ErrDiverged},
		{"a lost record", []Record{{Type: TypeRemove, Path: "f"}, {Type: TypeEnd, Sync: 1, Count: 2}}, ErrRecord},
		{"a lost sync", []Record{{Type: TypeEnd, Sync: 2}}, ErrRecord},
	} {
		if err := applyAll(newApplier(t, t.TempDir(), ApplyOptions{}), tc.records...); !errors.Is(err, tc.err) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.err)
		}
	}
}

func TestAFullDiskIsNamed(t *testing.T) {
	a := newApplier(t, mountTmpfs(t), ApplyOptions{})
	err := a.Apply(Record{Type: TypeFile, Path: "full", Create: true, Size: 1 << 30})
	for off := int64(0); err == nil && off < 128<<20; off += MaxData {
		err = a.Apply(Record{Type: TypeData, Offset: off, Data: make([]byte, MaxData)})
	}
	if !errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `"full"`) {
		t.Errorf("error %v", err)
	}
}

// FuzzApply: no sequence of records leaves the tree, and none panics.
func FuzzApply(f *testing.F) {
	join := func(records ...Record) []byte {
		var b []byte
		for _, r := range records {
			e, err := AppendRecord(nil, r)
			must(f, err)
			b = append(binary.LittleEndian.AppendUint16(b, uint16(len(e))), e...)
		}
		return b
	}
	f.Add(join(someRecords()...))
	f.Add(join(
		Record{Type: TypeSymlink, Path: "a", Target: ".."},
		Record{Type: TypeFile, Path: "a/witness", Create: true, Size: 5},
		Record{Type: TypeData, Data: []byte("gone!")}))
	f.Add(join(
		Record{Type: TypeDir, Path: "a", Meta: Meta{Mode: 0o755}},
		Record{Type: TypeFile, Path: "a/f", Create: true, Size: 9},
		Record{Type: TypeData, Data: []byte("abc")},
		Record{Type: TypeZero, Offset: 1, Length: 8},
		Record{Type: TypeLink, Path: "g", Target: "a/f"},
		Record{Type: TypeRename, Path: "a", Target: "g"},
		Record{Type: TypeRemove, Path: "a"},
		Record{Type: TypeEnd, Sync: 1, Count: 7}))
	f.Fuzz(func(t *testing.T, b []byte) {
		outer := t.TempDir()
		root := filepath.Join(outer, "root")
		must(t, os.Mkdir(root, 0o755))
		must(t, os.WriteFile(filepath.Join(outer, "witness"), []byte("intact"), 0o644))
		a, err := NewApplier(root, ApplyOptions{MaxBytes: 1 << 20, MaxEntries: 100})
		must(t, err)
		defer func() { must(t, a.Close()) }()
		for err == nil && len(b) >= 2 {
			n := min(int(binary.LittleEndian.Uint16(b)), len(b)-2)
			var r Record
			if r, _, err = DecodeRecord(b[2 : 2+n]); err == nil {
				err = a.Apply(r)
			}
			b = b[2+n:]
		}
		names, err := sortedNames(outer)
		must(t, err)
		content, err := os.ReadFile(filepath.Join(outer, "witness"))
		if err != nil || string(content) != "intact" || len(names) != 2 {
			t.Fatalf("outside: %q, %q, error %v", names, content, err)
		}
	})
}

func ExampleApplier() {
	dir, _ := os.MkdirTemp("", "filetree-example-")
	defer os.RemoveAll(dir)
	a, _ := NewApplier(dir, ApplyOptions{})
	defer a.Close()
	for _, r := range []Record{
		{Type: TypeFile, Path: "greeting", Create: true, Size: 5, Meta: Meta{Mode: 0o644, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}},
		{Type: TypeData, Data: []byte("hello")},
		{Type: TypeEnd, Sync: 1, Count: 2},
	} {
		if err := a.Apply(r); err != nil {
			fmt.Println(err)
		}
	}
	b, _ := os.ReadFile(filepath.Join(dir, "greeting"))
	fmt.Println(string(b))
	// Output: hello
}
