package track

import (
	"context"
	"os"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// own is an area of the test's own memory: what is asked of it stands still.
type own struct {
	memory []byte
	start  uint64
	held   []pagestream.Range
}

func newOwn(t *testing.T, pages int) *own {
	t.Helper()
	memory, err := unix.Mmap(-1, 0, pages*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(memory) })
	unix.Madvise(memory, unix.MADV_NOHUGEPAGE) // one write makes one page
	return &own{memory: memory, start: addressOf(memory)}
}

func (o *own) write(pages ...int) {
	for _, p := range pages {
		o.memory[p*page]++
	}
}

func (o *own) hold(from, to int) {
	o.held = append(o.held, pagestream.Range{Start: o.start + uint64(from*page), Pages: uint64(to - from)})
}

// dirty is what the tracker finds in the area, as numbers of pages.
func (o *own) dirty(t *testing.T) []int {
	t.Helper()
	self := Process{PID: os.Getpid(), Space: pagestream.Space{Kind: pagestream.Process, ID: 1}}
	tracker := &SoftDirtyTracker{
		List: func() ([]Process, error) { return []Process{self}, nil },
		Held: func(Process) []pagestream.Range { return o.held },
	}
	r, err := tracker.CollectFrozen(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Processes) != 1 || r.Pages != r.Processes[0].Pages {
		t.Fatalf("%d processes, %d pages", len(r.Processes), r.Pages)
	}
	checkRound(t, r.Processes[0])
	var pages []int
	for _, d := range r.Processes[0].Dirty {
		end := o.start + uint64(len(o.memory))
		for a := max(d.Start, o.start); a < min(d.End(), end); a += page {
			pages = append(pages, int((a-o.start)/page))
		}
	}
	return pages
}

func TestPagesThatNobodyHoldsAreDirtyWhateverTheirBit(t *testing.T) {
	o := newOwn(t, 40_000) // several reads of the pagemap
	o.write(0, 3, 4, 16_383, 16_384, 39_999)
	sum := byte(0)
	for p := 10; p < 20 && zeroPage() == nil; p++ {
		sum += o.memory[p*page] // shows the kernel's page of zeros
	}
	if got := o.dirty(t); sum != 0 || !slices.Equal(got, []int{0, 3, 4, 16_383, 16_384, 39_999}) {
		t.Errorf("dirty pages %v", got)
	}
}

func TestAHeldPageIsDirtyOnceItIsWritten(t *testing.T) {
	if err := pagemap.ProbeSoftDirty(); err != nil {
		t.Skip(err)
	}
	o := newOwn(t, 1000)
	o.write(seq(0, 1000)...)
	o.hold(0, 500)
	o.hold(600, 1000)
	if err := os.WriteFile("/proc/self/clear_refs", []byte("4"), 0); err != nil {
		t.Fatal(err)
	}
	o.write(7, 8, 499, 999)
	want := append([]int{7, 8, 499}, seq(500, 600)...)
	if got := o.dirty(t); !slices.Equal(got, append(want, 999)) {
		t.Errorf("dirty pages %v", got)
	}
	// What is mapped anew at the same place is not what was held.
	if err := unix.Madvise(o.memory[:10*page], unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	o.write(2)
	if got := o.dirty(t); !slices.Equal(got[:2], []int{2, 499}) {
		t.Errorf("dirty pages %v", got)
	}
}

func TestRunningRoundsAreNotTheSoftDirtyTrackers(t *testing.T) {
	if _, err := new(SoftDirtyTracker).Collect(t.Context()); err == nil {
		t.Error("it collected")
	}
}

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
