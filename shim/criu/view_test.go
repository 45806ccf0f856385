package criu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagemap"
)

// area is one area of an smaps file.
func area(header, flags string) string {
	return header + "\nRss:                   4 kB\nVmFlags: " + flags + " \n"
}

func TestShowMarksOnlyPlainBigPrivateMemory(t *testing.T) {
	for _, c := range []struct {
		name, header, flags string
		ours                bool
	}{
		{"big", "10000000-10400000 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac sd", true},
		{"heap", "10000000-10400000 rw-p 00000000 00:00 0                          [heap]", "rd wr mr mw me ac sd", true},
		{"named", "10000000-10400000 rw-p 00000000 00:00 0                          [anon:jemalloc]", "rd wr mr mw me ac sd", true},
		{"small", "10000000-10001000 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac sd", false},
		{"stack", "10000000-10400000 rw-p 00000000 00:00 0                          [stack]", "rd wr mr mw me gd ac", false},
		{"locked", "10000000-10400000 rw-p 00000000 00:00 0 ", "rd wr mr mw me lo ac sd", false},
		{"guarded", "10000000-10400000 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac sd gu", false},
		{"guarded, of a CRIU that knows such", "10000000-10400000 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac sd gu", true},
		{"guarded and small, of a CRIU that knows such", "10000000-10002000 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac sd gu", true},
		{"guarded and as large as what is shown, of a CRIU that knows such", "10000000-10001000 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac sd gu", false},
		{"guarded and locked, of a CRIU that knows such", "10000000-10400000 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac lo gu", false},
		{"huge pages", "10000000-10400000 rw-p 00000000 00:0f 77                         /anon_hugepage", "rd wr mr mw me ht", false},
		{"droppable already", "10000000-10400000 rw-p 00000000 00:00 0 ", "rd wr mr mw me dp", false},
		{"shared", "10000000-10400000 rw-s 00000000 00:01 9                          /dev/zero (deleted)", "rd wr sh mr mw me ms sd", false},
		{"read-only", "10000000-10400000 r--p 00000000 00:00 0 ", "rd mr mw me ac sd", false},
		{"file", "10000000-10400000 rw-p 00000000 fe:00 55                         /lib/big.so", "rd wr mr mw me ac sd", false},
	} {
		text := []byte(area(c.header, c.flags) + area("7ffff7fc0000-7ffff7fc4000 r--p 00000000 00:00 0                          [vvar]", "rd mr pf io"))
		sections, err := split(text)
		if err != nil {
			t.Fatal(err)
		}
		shown, owned := show(sections, strings.HasSuffix(c.name, "of a CRIU that knows such"))
		if got := len(owned) == 1; got != c.ours {
			t.Errorf("%s: ours is %v", c.name, got)
		}
		if got := strings.Contains(string(shown), "10000000-10001000 rw-p") && strings.Contains(string(shown), " dp \n"); !strings.HasPrefix(c.header, "10000000-10001000") && got != c.ours {
			t.Errorf("%s: hidden is %v in\n%s", c.name, got, shown)
		}
		if len(sections) != 2 {
			t.Errorf("%s: %d areas", c.name, len(sections))
		}
		end, _, _ := strings.Cut(strings.TrimPrefix(c.header, "10000000"), " ")
		truth := strings.NewReplacer(" dp \n", " \n", "-10001000 ", end+" ").Replace(string(shown))
		if c.ours && truth != string(text) || !c.ours && !bytes.Equal(shown, text) {
			t.Errorf("%s: more than the end and the flag differ:\n%s", c.name, shown)
		}
	}
}

// sleeper starts a process that stays as it is.
func sleeper(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for {
		exe, err := os.Readlink(filepath.Join("/proc", itoa(cmd.Process.Pid), "exe"))
		if err == nil && strings.Contains(exe, "sleep") || err != nil {
			break
		}
	}
	return cmd.Process.Pid
}

func itoa(n int) string { return string(appendInt(nil, n)) }

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

func TestViewHeadersAreTheProcessMaps(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root to read another process' memory map")
	}
	pid := sleeper(t)
	v, err := NewView(t.TempDir(), pid, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 { // the process may still have been starting
		changed, err := v.Refresh()
		if err != nil {
			t.Fatal(err)
		}
		if !changed {
			return
		}
	}
	t.Error("a process that does nothing seems to change its areas all the time")
}

// Kernels tell guard pages before they have a flag for areas with some.
func TestAreasWithGuardPagesAreNotOursWhateverTheirFlagsSay(t *testing.T) {
	if err := pagemap.ProbeGuard(); err != nil {
		t.Skip(err)
	}
	mem, err := unix.Mmap(-1, 0, 4<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	const madvGuardInstall = 102
	if err := unix.Madvise(mem[2<<20:2<<20+4096], madvGuardInstall); err != nil {
		t.Fatal(err)
	}
	start := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	whole := area(fmt.Sprintf("%x-%x rw-p 00000000 00:00 0 ", start, start+(4<<20)), "rd wr mr mw me ac")
	before := area(fmt.Sprintf("%x-%x rw-p 00000000 00:00 0 ", start, start+(2<<20)), "rd wr mr mw me ac")
	for text, want := range map[string]bool{whole: true, before: false} {
		sections, err := split([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := markGuarded(os.Getpid(), sections); err != nil {
			t.Fatal(err)
		}
		if got := guarded(sections[0].flags); got != want {
			t.Errorf("%q: guarded %v", text, got)
		}
	}
}

// writeImage writes an image of one kind for a test.
func pagemapOf(t *testing.T, dir string, entries ...images.Entry) {
	t.Helper()
	var b bytes.Buffer
	if err := images.WritePagemap(&b, 1, entries); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(images.PagemapPath(dir, 5), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCompletesImagesOfHiddenAreas(t *testing.T) {
	for name, c := range map[string]struct {
		listed, want []images.Entry
	}{
		"a CRIU that passes over them": {
			listed: []images.Entry{{Vaddr: 0x1000, Pages: 1, Flags: images.Present}, {Vaddr: 0x900000, Pages: 2, Flags: images.Lazy}},
			want: []images.Entry{
				{Vaddr: 0x1000, Pages: 1, Flags: images.Present},
				{Vaddr: 0x100000, Pages: 1, Flags: images.Lazy},
				{Vaddr: 0x1ff000, Pages: 1, Flags: images.Lazy},
				{Vaddr: 0x200000, Pages: 3, Flags: images.Lazy},
				{Vaddr: 0x900000, Pages: 2, Flags: images.Lazy},
			},
		},
		"a CRIU that lists their first pages, one of them with what is before it": {
			listed: []images.Entry{{Vaddr: 0xff000, Pages: 2, Flags: images.Lazy}, {Vaddr: 0x200000, Pages: 1, Flags: images.Lazy}},
			want: []images.Entry{
				{Vaddr: 0xff000, Pages: 2, Flags: images.Lazy},
				{Vaddr: 0x1ff000, Pages: 1, Flags: images.Lazy},
				{Vaddr: 0x200000, Pages: 1, Flags: images.Lazy},
				{Vaddr: 0x201000, Pages: 2, Flags: images.Lazy},
			},
		},
	} {
		dir := t.TempDir()
		pagemapOf(t, dir, c.listed...)
		hidden := []pagestream.Range{{Start: 0x100000, Pages: 256}, {Start: 0x200000, Pages: 256}}
		present := []pagestream.Range{
			{Start: 0x100000, Pages: 1},
			{Start: 0x1ff000, Pages: 4}, // over the border of two areas
		}
		if err := (&View{VPID: 5}).list(dir, hidden, present); err != nil {
			t.Fatal(err)
		}
		_, got, err := images.ReadPagemapFile(images.PagemapPath(dir, 5))
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
