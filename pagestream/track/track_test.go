package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/pagemap"
)

func TestOnlyWrittenPagesAreDirtyAgain(t *testing.T) {
	k := track(t)
	at := k.num("map %x", 100)
	k.num("write %x 50 1", at)
	if r := k.round(); r.New != 1 || len(r.Stops) != 1 || r.Pages == 0 {
		t.Errorf("first round: %d new, %d injections, %d pages", r.New, len(r.Stops), r.Pages)
	} else if got := k.dirty(r, k.pid, at, 100); !slices.Equal(got, seq(0, 0x50)) {
		t.Errorf("first round: pages %v", got)
	}
	k.want("nothing written", at, 100)
	k.num("write %x 1 2", at+7*page)
	k.num("write %x 3 2", at+20*page)
	k.num("write %x 1 2", at+99*page)
	if pagemap.ZeroFrame() != 0 { // else a page that is read is a page
		k.num("read %x 64", at)
	}
	k.want("some written", at, 100, 7, 20, 21, 22, 99)
	k.num("write %x 1 3", at+7*page)
	if r := k.finish(); r.New != 0 || len(r.Stops) != 0 {
		t.Errorf("frozen round: %d new, %d injections", r.New, len(r.Stops))
	} else if got := k.dirty(r, k.pid, at, 100); !slices.Equal(got, []int{7}) {
		t.Errorf("frozen round: pages %v, want 7", got)
	}
}

func TestChangedAreasAreDirty(t *testing.T) {
	const none, ro, rw = unix.PROT_NONE, unix.PROT_READ, unix.PROT_READ | unix.PROT_WRITE
	for _, c := range []struct {
		name   string
		change func(k *tracked, at uint64) uint64 // of 16 written pages; returns where to look
		dirty  []int
	}{
		{"mapped anew at the same place", func(k *tracked, at uint64) uint64 {
			k.num("fixed %x 10", at)
			k.num("write %x 4 9", at)
			return at
		}, seq(0, 4)},
		{"unmapped", func(k *tracked, at uint64) uint64 {
			k.num("unmap %x 10", at)
			return at
		}, nil},
		{"grown", func(k *tracked, at uint64) uint64 {
			to := k.num("remap %x 10 20 %x", at, unix.MREMAP_MAYMOVE)
			k.num("write %x 8 9", to+16*page)
			return to + 16*page
		}, seq(0, 8)},
		{"moved", func(k *tracked, at uint64) uint64 {
			to := k.num("map 40")
			k.num("unmap %x 40", to)
			// grown by so much that it must move
			wall := k.num("map 1")
			_ = wall
			return k.num("remap %x 10 4000 %x", at, unix.MREMAP_MAYMOVE)
		}, nil /* all or none, checked by the comparison */},
		{"moved, area left behind", func(k *tracked, at uint64) uint64 {
			return k.num("remap %x 10 10 %x", at, unix.MREMAP_MAYMOVE|unix.MREMAP_DONTUNMAP)
		}, seq(0, 16)},
		{"written where it moved away", func(k *tracked, at uint64) uint64 {
			k.num("remap %x 10 10 %x", at, unix.MREMAP_MAYMOVE|unix.MREMAP_DONTUNMAP)
			k.num("write %x 3 7", at)
			return at
		}, seq(0, 3)},
		{"heap grown", func(k *tracked, at uint64) uint64 {
			end := k.num("brk 8") + page
			end &^= page - 1
			k.num("write %x 4 7", end)
			return end
		}, seq(0, 4)},
		{"made read-only and writable", func(k *tracked, at uint64) uint64 {
			k.num("prot %x 10 %x", at, ro)
			k.num("prot %x 10 %x", at, rw)
			return at
		}, nil},
		{"written and made read-only", func(k *tracked, at uint64) uint64 {
			k.num("write %x 2 7", at)
			k.num("prot %x 10 %x", at, ro)
			return at
		}, seq(0, 2)},
		{"written and made inaccessible", func(k *tracked, at uint64) uint64 {
			k.num("write %x 2 7", at)
			k.num("prot %x 10 %x", at, none)
			return at
		}, seq(0, 2)},
		{"unlocked for a write", func(k *tracked, at uint64) uint64 {
			k.num("prot %x 10 %x", at, ro)
			k.round()
			k.num("prot %x 10 %x", at, rw)
			k.num("write %x 2 7", at)
			k.num("prot %x 10 %x", at, ro)
			return at
		}, seq(0, 2)},
		{"written by a system call", func(k *tracked, at uint64) uint64 {
			k.num("fill %x 2", at+5*page)
			return at
		}, seq(5, 7)},
		{"discarded and written", func(k *tracked, at uint64) uint64 {
			k.num("advise %x 10 %x", at, unix.MADV_DONTNEED)
			k.num("write %x 2 7", at+page)
			return at
		}, seq(1, 3)},
		{"discarded and read", func(k *tracked, at uint64) uint64 {
			k.num("advise %x 10 %x", at, unix.MADV_DONTNEED)
			k.num("read %x 10", at)
			return at
		}, nil},
		{"paged out and in", func(k *tracked, at uint64) uint64 {
			k.num("advise %x 10 %x", at, unix.MADV_PAGEOUT)
			k.num("write %x 1 7", at+3*page)
			return at
		}, seq(3, 4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "discarded and read" {
				needsZeroPage(t)
			}
			k := track(t)
			at := k.num("map 10")
			k.num("write %x 10 5", at)
			k.round()
			at = c.change(k, at)
			if c.dirty != nil || c.name != "moved" {
				k.want(c.name, at, 16, c.dirty...)
			}
			k.finish()
		})
	}
	t.Run("only at the last moment", func(t *testing.T) {
		k := track(t)
		at := k.num("map 10")
		k.num("write %x 10 5", at)
		k.round()
		k.num("write %x 1 6", at)
		k.num("remap %x 10 10 %x", at, unix.MREMAP_MAYMOVE|unix.MREMAP_DONTUNMAP)
		k.num("write %x 1 6", at+page)
		fresh := k.num("map 10")
		k.num("write %x 4 5", fresh)
		k.num("brk 8")
		if r := k.finish(); r.Untracked == 0 {
			t.Error("areas that are not registered count as tracked")
		}
	})
}

func TestReadOnlyAndInaccessibleMemoryIsTracked(t *testing.T) {
	k := track(t)
	at := k.num("map 20")
	k.num("write %x 20 5", at)
	k.num("prot %x 8 %x", at, unix.PROT_READ)
	k.num("prot %x 8 %x", at+8*page, unix.PROT_NONE)
	if got := k.dirty(k.round(), k.pid, at, 32); !slices.Equal(got, seq(0, 32)) {
		t.Errorf("first round: %v", got)
	}
	k.want("second round", at, 32)
	if r := k.finish(); of(t, r, k.pid).Untracked != 0 {
		t.Errorf("%d pages are not tracked", r.Untracked)
	}
}

func TestWriteToHugePageDirtiesOnePage(t *testing.T) {
	k := track(t)
	at := k.num("huge 400")
	k.num("write %x 400 5", at)
	if smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", k.pid)); err != nil || !strings.Contains(string(smaps), "AnonHugePages:      4096 kB") {
		t.Skip("no huge pages here")
	}
	k.round()
	k.want("nothing written", at, 1024)
	k.num("write %x 1 7", at+700*page)
	k.want("one page written", at, 1024, 700)
	k.finish()
}

func TestGuardPagesAreNotSent(t *testing.T) {
	const install, remove = 102, 103
	if err := pagemap.ProbeGuard(); err != nil {
		t.Skip(err)
	}
	k := track(t)
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	k.num("advise %x 4 %x", at, install)
	k.want("guarded", at, 16, seq(4, 16)...)
	k.num("advise %x 2 %x", at, remove)
	k.num("write %x 1 5", at)
	k.want("guard removed and written", at, 16, 0)
	k.finish()
}

func TestLostCopiesAreReportedAgain(t *testing.T) {
	k := track(t)
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	r := k.round()
	space := of(t, r, k.pid).Space
	k.tr.Invalidate(space)
	k.want("invalidated", at, 16, seq(0, 16)...)
	k.want("then", at, 16)
	k.num("write %x 1 6", at)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := k.tr.Collect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled round: error %v", err)
	}
	k.want("after a cancelled round", at, 16, 0)
	k.tr.Invalidate(space)
	if r := k.finish(); len(k.dirty(r, k.pid, at, 16)) != 16 {
		t.Error("frozen round after Invalidate does not have all pages")
	}
	k.want("the frozen round was in vain", at, 16, seq(0, 16)...)
}

func TestCloseLeavesNothingInTheProcess(t *testing.T) {
	k := track(t)
	at := k.num("map 10")
	k.num("write %x 10 5", at)
	before := k.fds()
	k.round()
	if !registered(t, k.pid) {
		t.Error("nothing is registered while tracking")
	}
	// One tracker at a time.
	second := trackWith(t, k.target, k.tr.opts)
	if pr := of(t, second.round(), k.pid); !errors.Is(pr.Err, ErrOtherTracker) || pr.Pages != 0 {
		t.Errorf("second tracker: %+v, want ErrOtherTracker", pr)
	}
	select {
	case <-k.tr.CloseAsync():
	case <-time.After(5 * time.Second):
		t.Fatal("CloseAsync does not end")
	}
	k.tr.Close()
	if _, err := k.tr.Collect(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: error %v", err)
	}
	if registered(t, k.pid) {
		t.Error("areas are registered after Close")
	}
	if after := k.fds(); !slices.Equal(before, after) {
		t.Errorf("descriptors %v, were %v", after, before)
	}
	if got := second.dirty(second.round(), k.pid, at, 16); !slices.Equal(got, seq(0, 16)) {
		t.Errorf("second tracker after the first: %v", got)
	}
	second.finish()
}

func TestDescriptorsAreNotLeaked(t *testing.T) {
	k := track(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	k.round()
	before := count()
	for range 20 {
		child := int(k.num("fork"))
		k.round()
		unix.Kill(child, unix.SIGKILL)
		waitGone(t, child)
		k.round()
	}
	k.tr.closers.Wait()
	if after := count(); after != before {
		t.Errorf("%d descriptors, were %d", after, before)
	}
}
