package lazy

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
)

// registered maps so many pages where the images have process 1's, and returns a userfaultfd for them.
func registered(t *testing.T, pages uint64) int {
	t.Helper()
	addr, size := uintptr(base(1)), uintptr(pages*pageSize)
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, addr, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, ^uintptr(0), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	uffd, err := newUserfaultfd()
	must(t, err)
	arg := struct{ start, length, mode, ioctls uint64 }{base(1), pages * pageSize, 1, 0}
	if errno := ioctl(uffd, uffdioRegister, unsafe.Pointer(&arg)); errno != 0 {
		t.Fatal(errno)
	}
	// Who is given it closes it before: else the unmapping would wait to be heard of.
	t.Cleanup(func() { unix.Syscall(unix.SYS_MUNMAP, addr, size, 0) })
	return uffd
}

// inPlace says of each page whether it is there.
func inPlace(t *testing.T, pages uint64) []byte {
	t.Helper()
	there := make([]byte, pages)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(base(1)), uintptr(pages*pageSize), uintptr(unsafe.Pointer(&there[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	return there
}

// What came last is put in place when the processes are made, and nothing else before they run.
func TestWhatWasWrittenLastIsInPlaceBeforeTheProcessRuns(t *testing.T) {
	const pages = 6000
	dir := sealedStore(t, 1, pages, false)
	reader, err := store.OpenSealed(dir)
	must(t, err)
	defer reader.Close()
	uffd := registered(t, pages)
	b, _ := standing(t, false)
	s := b.s
	const share = Foremost / 2
	s.cfg = Config{Reader: reader, Journal: filepath.Join(dir, "journal"), Calm: time.Hour, Foremost: share}
	must(t, s.load())
	must(t, s.heard(message{kind: readyMsg, id: 1}, -1))
	must(t, s.heard(message{kind: memoryMsg, id: 1, pid: 1}, uffd))
	if _, worked, err := s.fill(); worked || err != nil {
		t.Fatalf("while processes are being made: %v, %v", worked, err)
	}
	must(t, s.heard(message{kind: madeMsg}, -1))
	for worked := true; worked; {
		_, worked, err = s.fill()
		must(t, err)
	}
	want := make([]byte, pages)
	wanted := 0
	for _, r := range s.sources[1].foremost {
		for at := r.Start; at < r.End(); at += pageSize {
			want[(at-base(1))/pageSize] = 1
			wanted++
		}
	}
	if wanted < share/2 || wanted > share {
		t.Fatalf("%d pages are to be there first", wanted)
	}
	there := inPlace(t, pages)
	if !slices.Equal(there, want) {
		t.Fatalf("%d pages are in place, %d should be", bytes.Count(there, []byte{1}), wanted)
	}
	own, err := os.Open("/proc/self/mem")
	must(t, err)
	defer own.Close()
	for i, is := range there {
		if is == 1 {
			at := base(1) + uint64(i)*pageSize
			got := make([]byte, pageSize)
			if _, err := own.ReadAt(got, int64(at)); err != nil || !bytes.Equal(got, appendContent(nil, at)) {
				t.Fatalf("the page at %#x is another", at)
			}
		}
	}
}

func TestWhatIsPutInPlaceFirstIsBounded(t *testing.T) {
	run := func(pages ...uint64) (out []pagestream.Range) {
		for i, n := range pages {
			out = append(out, pagestream.Range{Start: uint64(i+1) << 40, Pages: n})
		}
		return out
	}
	const share = 100
	for _, c := range []struct{ recent, want []pagestream.Range }{
		{nil, nil},
		{run(3, 5), run(3, 5)},
		{run(share), run(share)},
		{run(share-1, 9, 2), run(share-1, 1)},
		{run(share, 1), run(share)},
	} {
		if got := foremost(slices.Clone(c.recent), share); !slices.Equal(got, c.want) {
			t.Errorf("of %v: %v, not %v", c.recent, got, c.want)
		}
	}
}
