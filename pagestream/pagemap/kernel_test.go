package pagemap

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

const page = pagestream.PageSize

// mapping is private anonymous memory of the test, huge pages off so that each
// page is on its own.
func mapping(t testing.TB, pages int) []byte {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	if err := unix.Madvise(mem, unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	return mem
}

// read has the kernel show what is at the beginning of mem.
//
//go:noinline
func read(mem []byte) byte { return mem[0] }

func addr(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) }

func TestWalkFindsPresentPagesWithAnyBuffer(t *testing.T) {
	if err := ProbeScan(); err != nil {
		t.Skip(err)
	}
	mem := mapping(t, 64)
	present := []int{0, 1, 2, 7, 9, 11, 12, 40, 63}
	for _, p := range present {
		mem[p*page] = 1
	}
	if ZeroFrame() != 0 {
		read(mem[20*page:]) // the page of zeros: must not be found
	}
	f, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q := Query{
		Start: addr(mem), End: addr(mem) + 64*page,
		Inverted: ZeroPage, Mask: ZeroPage, AnyOf: Present | Swapped, Return: Present,
	}
	for _, room := range []int{1, 2, 3, 100} {
		var got []int
		err := f.Walk(q, make([]Region, room), func(rs []Region) {
			for _, r := range rs {
				for a := r.Start; a < r.End; a += page {
					got = append(got, int((a-addr(mem))/page))
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, present) {
			t.Errorf("room for %d regions: pages %v, want %v", room, got, present)
		}
	}
	if _, _, err := f.Scan(q, nil); err == nil {
		t.Error("a scan without room for regions was tried")
	}
	entries := make([]Entry, 64)
	if err := f.ReadEntries(addr(mem), entries); err != nil {
		t.Fatal(err)
	}
	if !entries[0].Present() || entries[3].Present() {
		t.Errorf("entries 0 and 3 are %#x and %#x, want present and absent", entries[0], entries[3])
	}
}

func TestWalkFindsNoPageTwiceInManyRegions(t *testing.T) {
	if err := ProbeScan(); err != nil {
		t.Skip(err)
	}
	const pages = 4000
	mem := mapping(t, pages)
	for p := 0; p < pages; p += 2 {
		mem[p*page] = 1
	}
	f, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	q := Query{
		Start: addr(mem), End: addr(mem) + pages*page,
		Inverted: ZeroPage, Mask: ZeroPage, AnyOf: Present | Swapped, Return: Present,
	}
	for _, room := range []int{1, 511, 512, 513, 1000, 1999, 2000, 2001, 5000} {
		next := addr(mem)
		err := f.Walk(q, make([]Region, room), func(rs []Region) {
			for _, r := range rs {
				if r.Start != next || r.Pages() != 1 {
					t.Fatalf("room for %d regions: region %+v, want one page at %#x", room, r, next)
				}
				next += 2 * page
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if next != q.End {
			t.Errorf("room for %d regions: walk ended at %#x, want %#x", room, next, q.End)
		}
	}
}

func TestReadMemoryReadsRangesInOrder(t *testing.T) {
	const pages = 3000 // more than one call's vectors when every other page is taken
	mem := mapping(t, pages)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(mem); i += 8 {
		mem[i] = byte(rng.Uint32())
		mem[i+1] = byte(rng.Uint32())
	}
	var ranges []pagestream.Range
	var want []byte
	for p := 0; p < pages; {
		n := 1 + rng.IntN(2)
		n = min(n, pages-p)
		ranges = append(ranges, pagestream.Range{Start: addr(mem) + uint64(p)*page, Pages: uint64(n)})
		want = append(want, mem[p*page:(p+n)*page]...)
		p += n + 1
	}
	buf := make([]byte, len(want)+10)
	missing, err := ReadMemory(os.Getpid(), ranges, buf)
	if err != nil || missing != nil {
		t.Fatalf("missing %v, error %v", missing, err)
	}
	if !bytes.Equal(buf[:len(want)], want) {
		t.Error("the pages read are not the pages of the process")
	}
	if _, err := ReadMemory(os.Getpid(), ranges, buf[:len(want)-1]); err == nil {
		t.Error("a buffer that is too small was taken")
	}
	if _, err := ReadMemory(os.Getpid(), []pagestream.Range{{Start: 1, Pages: 1}}, buf); !errors.Is(err, pagestream.ErrInvalid) {
		t.Errorf("range off a page boundary: error %v", err)
	}
}

func TestReadMemoryReadsForbiddenPagesAndReportsMissingOnes(t *testing.T) {
	// Not mapping(): the hole may be somebody else's by the time of the cleanup.
	mem, err := unix.Mmap(-1, 0, 12*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	for p := range 12 {
		mem[p*page] = byte(p + 1)
	}
	if err := unix.Mprotect(mem[2*page:4*page], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mprotect(mem[5*page:6*page], unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	hole := func(from, to int) {
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(addr(mem))+uintptr(from*page), uintptr((to-from)*page), 0); errno != 0 {
			t.Fatal(errno)
		}
	}
	hole(7, 10)
	t.Cleanup(func() { hole(0, 7); hole(10, 12) })
	buf := bytes.Repeat([]byte{0xee}, 12*page)
	missing, err := ReadMemory(os.Getpid(), []pagestream.Range{
		{Start: addr(mem), Pages: 6},
		{Start: addr(mem) + 6*page, Pages: 6},
	}, buf)
	if err != nil {
		t.Fatal(err)
	}
	if want := []pagestream.Range{{Start: addr(mem) + 7*page, Pages: 3}}; !slices.Equal(missing, want) {
		t.Errorf("missing %v, want %v", missing, want)
	}
	for p := range 12 {
		want := byte(p + 1)
		if p >= 7 && p < 10 {
			want = 0
		}
		if buf[p*page] != want || buf[p*page+page-1] != 0 {
			t.Errorf("page %d starts with %#x and ends with %#x, want %#x and 0", p, buf[p*page], buf[p*page+page-1], want)
		}
	}
}

func TestReadMemoryTellsAnEndedProcess(t *testing.T) {
	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		t.Skip(err)
	}
	_, err := ReadMemory(cmd.Process.Pid, []pagestream.Range{{Start: 0x10000, Pages: 1}}, make([]byte, page))
	if !errors.Is(err, ErrGone) {
		t.Errorf("error %v, want ErrGone", err)
	}
}

func BenchmarkReadMemory(b *testing.B) {
	const pages = 32 << 10
	mem := mapping(b, pages)
	for p := range pages {
		mem[p*page] = byte(p)
	}
	buf := make([]byte, pages*page/4)
	for _, c := range []struct {
		name string
		run  int
	}{{"pages", 1}, {"runs of 16", 16}, {"one range", pages / 4}} {
		b.Run(c.name, func(b *testing.B) {
			var ranges []pagestream.Range
			var total int
			for p := 0; p+c.run <= pages && total < pages/4; p += c.run * 2 {
				ranges = append(ranges, pagestream.Range{Start: addr(mem) + uint64(p)*page, Pages: uint64(c.run)})
				total += c.run
			}
			b.SetBytes(int64(total * page))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ReadMemory(os.Getpid(), ranges, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestGuardRegionsThatAreToldCanBeMade(t *testing.T) {
	if ProbeGuard() == nil && !HaveGuards() {
		t.Error("the kernel tells guard regions, and refuses to make one")
	}
}

// PresentPages must find what a query for present pages finds, and nothing of what CRIU leaves out.
func TestPresentPagesAreThoseThatHoldSomething(t *testing.T) {
	if err := ProbeScan(); err != nil {
		t.Skip(err)
	}
	const pages = 1500 // more than one page table
	mem := mapping(t, pages)
	rng := rand.New(rand.NewPCG(3, 4))
	var want, guards []pagestream.Range
	for p := range pages {
		switch at := addr(mem) + uint64(p)*page; {
		case rng.IntN(3) > 0:
			mem[p*page] = 1
			want = pagestream.AppendRun(want, pagestream.Range{Start: at, Pages: 1})
		case rng.IntN(3) == 0 && ZeroFrame() != 0:
			read(mem[p*page:]) // the page of zeros
		case rng.IntN(3) == 0 && ProbeGuard() == nil:
			if err := unix.Madvise(mem[p*page:(p+1)*page], madvGuardInstall); err != nil {
				t.Fatal(err)
			}
			guards = pagestream.AppendRun(guards, pagestream.Range{Start: at, Pages: 1})
		}
	}
	f, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole := pagestream.Range{Start: addr(mem), Pages: pages}
	halves := []pagestream.Range{{Start: addr(mem), Pages: 700}, {Start: addr(mem) + 700*page, Pages: pages - 700}}
	for _, room := range []int{1, 2, 100, 5000} {
		for _, over := range [][]pagestream.Range{{whole}, halves} {
			got, gotGuards, err := f.PresentPages(over, make([]Region, room))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("room for %d regions, %d spans: %d ranges, want %d", room, len(over), len(got), len(want))
			}
			if !slices.Equal(gotGuards, guards) {
				t.Errorf("room for %d regions, %d spans: guards %v, want %v", room, len(over), gotGuards, guards)
			}
		}
	}
}
