package pagemap

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
)

const someMaps = `55d0c8a00000-55d0c8a02000 r--p 00000000 fe:00 1234                       /usr/bin/a name with  spaces
55d0c8a02000-55d0c8a04000 rw-p 00002000 fe:00 1234                       /usr/bin/x (deleted)
55d0ca000000-55d0ca021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 ---p 00000000 00:00 0 
7f0000001000-7f0000002000 rw-p 00000000 00:00 0
7f0000002000-7f0000003000 rw-s 00000000 00:01 2052                       /dev/zero (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`

func TestParseMapsReadsEveryField(t *testing.T) {
	got, err := ParseMaps(nil, []byte(someMaps))
	if err != nil {
		t.Fatal(err)
	}
	want := []VMA{
		{Start: 0x55d0c8a00000, End: 0x55d0c8a02000, Inode: 1234, Major: 0xfe, Perms: Read, Path: "/usr/bin/a name with  spaces"},
		{Start: 0x55d0c8a02000, End: 0x55d0c8a04000, Offset: 0x2000, Inode: 1234, Major: 0xfe, Perms: Read | Write, Path: "/usr/bin/x (deleted)"},
		{Start: 0x55d0ca000000, End: 0x55d0ca021000, Perms: Read | Write, Path: "[heap]"},
		{Start: 0x7f0000000000, End: 0x7f0000001000},
		{Start: 0x7f0000001000, End: 0x7f0000002000, Perms: Read | Write},
		{Start: 0x7f0000002000, End: 0x7f0000003000, Inode: 2052, Minor: 1, Perms: Read | Write | Shared, Path: "/dev/zero (deleted)"},
		{Start: 0x7ffc00000000, End: 0x7ffc00021000, Perms: Read | Write, Path: "[stack]"},
		{Start: 0xffffffffff600000, End: 0xffffffffff601000, Perms: Exec, Path: "[vsyscall]"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("areas\n%v\nwant\n%v", got, want)
	}
}

func TestParseMapsRefusesWhatTheKernelDoesNotWrite(t *testing.T) {
	for name, text := range map[string]string{
		"no fields":       "hello\n",
		"short perms":     "1000-2000 rwp 0 00:00 0\n",
		"unknown perm":    "1000-2000 rwzp 0 00:00 0\n",
		"neither private": "1000-2000 rw-x 0 00:00 0\n",
		"no inode":        "1000-2000 rw-p 0 00:00\n",
		"backwards":       "2000-1000 rw-p 0 00:00 0\n",
		"empty area":      "1000-1000 rw-p 0 00:00 0\n",
		"too long":        "10000000000000000-20000000000000000 rw-p 0 00:00 0\n",
		"negative":        "-1-2000 rw-p 0 00:00 0\n",
		"empty line":      "\n",
	} {
		if got, err := ParseMaps(nil, []byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, error %v, want ErrMalformed", name, got, err)
		}
	}
}

func TestParseSmapsGivesFlagsToTheirArea(t *testing.T) {
	const text = `1000-2000 rw-p 00000000 00:00 0                          [heap]
Size:                  4 kB
VmFlags: rd wr mr mw me ac lo 
2000-3000 rw-p 00000000 00:00 0 
Size:                  4 kB
VmFlags: rd wr mr mw gd me uw xx ht dp io pf ss
3000-4000 rw-p 00000000 00:00 0 
`
	got, err := ParseSmaps(nil, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Flags{
		FlagsKnown | FlagLocked,
		FlagsKnown | FlagGrowsDown | FlagUffdWP | FlagHugeTLB | FlagDroppable | FlagIO | FlagPFNMap | FlagShadowStack,
		0,
	}
	if len(got) != len(want) {
		t.Fatalf("%d areas, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].Flags != want[i] {
			t.Errorf("area %d: flags %#x, want %#x", i, got[i].Flags, want[i])
		}
	}
	if got, err := ParseSmaps(nil, []byte("VmFlags: rd\n")); err != nil || len(got) != 0 {
		t.Errorf("flags before any area: %v, %v", got, err)
	}
}

// While a process runs the kernel may list an area that grew twice.
func TestParseCutsWhatWasListedBefore(t *testing.T) {
	const text = `1000-3000 rw-p 00000000 00:00 0 
VmFlags: rd
2000-4000 rw-p 00001000 00:00 0 
VmFlags: lo
2000-3000 rw-p 00001000 00:00 0 
VmFlags: gd
`
	want := []VMA{
		{Start: 0x1000, End: 0x3000, Perms: Read | Write, Flags: FlagsKnown},
		{Start: 0x3000, End: 0x4000, Perms: Read | Write, Flags: FlagsKnown | FlagLocked, Offset: 0x2000},
	}
	got, err := ParseSmaps(nil, []byte(text))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("areas %+v, %v, want %+v", got, err, want)
	}
	before := VMA{Start: 0x9000, End: 0xa000}
	got, err = ParseMaps([]VMA{before}, []byte("1000-2000 rw-p 0 00:00 0\n"))
	if err != nil || len(got) != 2 || got[0] != before || got[1].Start != 0x1000 {
		t.Errorf("appended to another list: %+v, %v", got, err)
	}
}

func TestReadMapsAndReadSmapsAgreeOnOurselves(t *testing.T) {
	maps, buf, err := ReadMaps(os.Getpid(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(buf) == 0 {
		t.Error("the text buffer did not come back")
	}
	smaps, err := ReadSmaps(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	bySection := map[string]VMA{}
	for _, v := range smaps {
		if v.Flags&FlagsKnown == 0 {
			t.Errorf("%#x has no flags", v.Start)
		}
		bySection[v.Path] = v
	}
	found := false
	for _, v := range maps {
		if v.Path == "[vdso]" {
			found = true
			if s := bySection["[vdso]"]; s.Start != v.Start || s.End != v.End || s.Perms != v.Perms {
				t.Errorf("vdso is %+v in maps and %+v in smaps", v, s)
			}
		}
	}
	if !found {
		t.Error("no [vdso] among our own areas")
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte(someMaps))
	f.Add([]byte("1000-2000 rw-p 0 00:00 0"))
	f.Add([]byte("1000-2000 rw-p 0 00:00 0 \n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		checkAreas(t, text, ParseMaps)
	})
}

func FuzzParseSmaps(f *testing.F) {
	f.Add([]byte(someMaps))
	f.Add([]byte("1000-2000 rw-p 0 00:00 0\nVmFlags: rd wr lo\nSize: 4 kB\n"))
	f.Add([]byte("VmFlags:"))
	f.Fuzz(func(t *testing.T, text []byte) {
		checkAreas(t, text, ParseSmaps)
	})
}

// checkAreas checks what every user of a parsed list builds on: the areas
// ascend, none is empty, and no path has a line's end in it.
func checkAreas(t *testing.T, text []byte, parse func([]VMA, []byte) ([]VMA, error)) {
	vmas, err := parse(nil, text)
	if err != nil && !errors.Is(err, ErrMalformed) {
		t.Fatalf("error %v is not ErrMalformed", err)
	}
	var end uint64
	for _, v := range vmas {
		if v.Start < end || v.End <= v.Start {
			t.Fatalf("area %+v after %#x", v, end)
		}
		end = v.End
		if strings.ContainsRune(v.Path, '\n') {
			t.Fatalf("path %q", v.Path)
		}
	}
}
