package filetree

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// someRecords has every type, with all its fields in use.
func someRecords() []Record {
	meta := Meta{UID: math.MaxUint32, GID: 7, Mode: 0o4755, Mtime: unix.Timespec{Sec: -12345678901, Nsec: 999999999},
		Xattrs: []Xattr{{"security.capability", []byte{1, 0, 0}}, {"system.posix_acl_access", []byte("acl")}, {"user.empty", []byte{}}}}
	return []Record{
		{Type: TypeDir, Path: ".", Meta: meta},
		{Type: TypeDir, Path: "a/b", Opaque: true, Meta: Meta{Mode: 0o1777}},
		{Type: TypeFile, Path: "a/b/c d\n\xff", Create: true, Size: 1 << 40, Meta: meta},
		{Type: TypeData, Offset: 1 << 33, Data: []byte("content")},
		{Type: TypeZero, Offset: 65536, Length: 1 << 39},
		{Type: TypeLink, Path: "l", Target: "a/b/c"},
		{Type: TypeSymlink, Path: "s", Target: "/../anywhere at all/..", Meta: meta},
		{Type: TypeNode, Path: "n", NodeType: unix.S_IFCHR, Major: 4095, Minor: 1<<20 - 1, Meta: meta},
		{Type: TypeNode, Path: "p", NodeType: unix.S_IFIFO},
		{Type: TypeRemove, Path: strings.Repeat("x", MaxName)},
		{Type: TypeRename, Path: "to", Target: "from"},
		{Type: TypeMeta, Path: "a/b", Meta: meta},
		{Type: TypeEnd, Sync: math.MaxUint64, Count: 17, Frozen: true},
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	var b []byte
	var err error
	for _, r := range someRecords() {
		b, err = AppendRecord(b, r)
		must(t, err)
	}
	for _, want := range someRecords() {
		got, n, err := DecodeRecord(b)
		must(t, err)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		for short := range n {
			if _, _, err := DecodeRecord(b[:short]); !errors.Is(err, ErrRecord) {
				t.Errorf("%v cut to %d bytes of %d: error %v", want.Type, short, n, err)
			}
		}
		b = b[n:]
	}
	if len(b) != 0 {
		t.Errorf("%d bytes left", len(b))
	}
}

// hostileRecords breaks every bound once.
func hostileRecords() map[string]Record {
	file := func(path string) Record { return Record{Type: TypeFile, Path: path, Create: true} }
	xattr := func(x ...Xattr) Record { return Record{Type: TypeMeta, Path: "f", Meta: Meta{Xattrs: x}} }
	many := make([]Xattr, MaxXattrs+1)
	for i := range many {
		many[i].Name = "user." + strings.Repeat("x", i%200+1) + string(rune('a'+i/200))
	}
	return map[string]Record{
		"parent":                   file("../escape"),
		"parent in the middle":     file("a/../../escape"),
		"parent at the end":        {Type: TypeRemove, Path: "a/.."},
		"absolute":                 file("/etc/passwd"),
		"empty":                    file(""),
		"the root as a file":       file("."),
		"removal of the root":      {Type: TypeRemove, Path: "."},
		"opaque root":              {Type: TypeDir, Path: ".", Opaque: true},
		"dot":                      file("a/./b"),
		"double slash":             file("a//b"),
		"trailing slash":           file("a/"),
		"NUL":                      file("a\x00b"),
		"long name":                file(strings.Repeat("x", MaxName+1)),
		"long path":                file(strings.Repeat("x/", MaxPath/2) + "xx"),
		"link from outside":        {Type: TypeLink, Path: "l", Target: "../../etc/shadow"},
		"link from an absolute":    {Type: TypeLink, Path: "l", Target: "/etc/shadow"},
		"rename from outside":      {Type: TypeRename, Path: "l", Target: "../x"},
		"empty symlink":            {Type: TypeSymlink, Path: "l"},
		"symlink with NUL":         {Type: TypeSymlink, Path: "l", Target: "a\x00"},
		"long symlink":             {Type: TypeSymlink, Path: "l", Target: strings.Repeat("x", MaxPath+1)},
		"negative size":            {Type: TypeFile, Path: "f", Size: -1},
		"huge size":                {Type: TypeFile, Path: "f", Size: math.MaxInt64},
		"no data":                  {Type: TypeData},
		"too much data":            {Type: TypeData, Data: make([]byte, MaxData+1)},
		"negative offset":          {Type: TypeData, Offset: -1, Data: []byte("x")},
		"overflow":                 {Type: TypeData, Offset: math.MaxInt64, Data: []byte("x")},
		"overflow of zeros":        {Type: TypeZero, Offset: 1 << 61, Length: math.MaxInt64},
		"no zeros":                 {Type: TypeZero, Offset: 1},
		"whiteout device":          {Type: TypeNode, Path: "n", NodeType: unix.S_IFCHR},
		"regular node":             {Type: TypeNode, Path: "n", NodeType: unix.S_IFREG},
		"numbered fifo":            {Type: TypeNode, Path: "n", NodeType: unix.S_IFIFO, Minor: 1},
		"device number":            {Type: TypeNode, Path: "n", NodeType: unix.S_IFBLK, Major: 1 << 12},
		"mode with a type":         {Type: TypeMeta, Path: "f", Meta: Meta{Mode: unix.S_IFREG | 0o644}},
		"UTIME_NOW":                {Type: TypeMeta, Path: "f", Meta: Meta{Mtime: unix.Timespec{Nsec: unix.UTIME_NOW}}},
		"attribute of overlayfs":   xattr(Xattr{Name: "trusted.overlay.redirect", Value: []byte("/")}),
		"attribute without a name": xattr(Xattr{Name: "user."}),
		"attribute with NUL":       xattr(Xattr{Name: "user.a\x00b"}),
		"strange attribute":        xattr(Xattr{Name: "system.nfs4_acl"}),
		"attributes out of order":  xattr(Xattr{Name: "user.b"}, Xattr{Name: "user.a"}),
		"attribute twice":          xattr(Xattr{Name: "user.a"}, Xattr{Name: "user.a"}),
		"large attributes":         xattr(Xattr{Name: "user.a", Value: make([]byte, MaxXattrBytes)}),
		"many attributes":          {Type: TypeMeta, Path: "f", Meta: Meta{Xattrs: many}},
		"no type":                  {Path: "f"},
		"unknown type":             {Type: 200, Path: "f"},
	}
}

func TestHostileRecordsAreRefusedOnBothSides(t *testing.T) {
	for name, r := range hostileRecords() {
		if _, err := AppendRecord(nil, r); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: encoded, error %v", name, err)
		}
		root := t.TempDir()
		a, err := NewApplier(root, ApplyOptions{AllowDevices: true})
		must(t, err)
		must(t, a.Apply(Record{Type: TypeFile, Path: "f", Create: true, Size: 10}))
		if err := a.Apply(r); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: applied, error %v", name, err)
		}
		if err := a.Apply(Record{Type: TypeRemove, Path: "g"}); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: went on after it, error %v", name, err)
		}
		must(t, a.Close())
	}
}

func TestStrangeEncodingsAreRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":             {},
		"version":           {2, byte(TypeRemove), 1, 'a'},
		"type":              {1, 99, 1, 'a'},
		"long number":       {1, byte(TypeRemove), 0x81, 0x00, 'a'},
		"endless number":    {1, byte(TypeRemove), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"length beyond end": {1, byte(TypeRemove), 5, 'a'},
		"unknown flag":      {1, byte(TypeEnd), 0x80, 1, 1},
		"another's flag":    {1, byte(TypeEnd), flagCreate, 1, 1},
		"huge data":         {1, byte(TypeData), 0, 0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		if r, _, err := DecodeRecord(b); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %+v, error %v", name, r, err)
		}
	}
}

// FuzzDecodeRecord: whatever decodes is valid, within the bounds, and encodes to the very bytes that it was.
func FuzzDecodeRecord(f *testing.F) {
	for _, r := range someRecords() {
		b, err := AppendRecord(nil, r)
		must(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := DecodeRecord(b)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Fatalf("error %v is no ErrRecord", err)
			}
			return
		}
		again, err := AppendRecord(nil, r)
		if err != nil || !bytes.Equal(again, b[:n]) {
			t.Fatalf("%+v: encoded again %x, error %v, was %x", r, again, err, b[:n])
		}
	})
}
