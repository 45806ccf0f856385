package shim

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/shim/criu"
)

// viewOfSelf is a view of this process, which has an area of two MiB, of which it has written a page.
func viewOfSelf(t *testing.T) (v *criu.View, written uint64) {
	t.Helper()
	if err := pagemap.ProbeScan(); err != nil {
		t.Skip(err)
	}
	mem, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	mem[0] = 1
	if v, err = criu.NewView(t.TempDir(), os.Getpid(), 1, false); err != nil {
		t.Fatal(err)
	}
	if len(v.Owned()) == 0 {
		t.Fatal("no area is ours")
	}
	return v, v.Owned()[0].Start
}

func TestImagesAreCompletedFromTheLastScanWhereItHasLooked(t *testing.T) {
	v, at := viewOfSelf(t)
	found := []pagestream.Range{{Start: at, Pages: 7}}
	scanned := func(pid int, looked []pagestream.Range) *lastScan {
		l := newLastScan(nil)
		l.processes = map[int]track.ProcessRound{pid: {Present: found, Looked: looked}}
		close(l.found)
		return l
	}
	part := slices.Clone(v.Owned())
	part[len(part)-1].Pages--
	for name, c := range map[string]struct {
		scan  *lastScan
		scans bool // the last scan's pages are taken
	}{
		"all":                 {scanned(v.PID, v.Owned()), true},
		"all but a page":      {scanned(v.PID, part), false},
		"another process":     {scanned(v.PID+1, v.Owned()), false},
		"no tracker that can": {nil, false},
	} {
		got, _, err := presentPages(t.Context(), v, c.scan)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if slices.Equal(got, found) != c.scans {
			t.Errorf("%s: %d ranges, of the last scan: want %v", name, len(got), c.scans)
		}
		if len(got) == 0 {
			t.Errorf("%s: no pages", name)
		}
	}
}

// CRIU is not shown such an area, and the guards would be missing in the pod that is restored.
func TestGuardPagesWhereCRIUDoesNotLookAreAnError(t *testing.T) {
	v, at := viewOfSelf(t)
	knows, err := criu.NewView(t.TempDir(), os.Getpid(), 1, true)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		view  *criu.View
		guard uint64
		fails bool
		lists int
	}{
		"in an area of ours": {v, at + pagestream.PageSize, true, 1},
		"elsewhere":          {v, 0x1000, false, 0},
		"in an area of ours, of a CRIU that knows them": {knows, at + pagestream.PageSize, false, 1},
		"elsewhere, of a CRIU that knows them":          {knows, 0x1000, false, 0},
	} {
		l := newLastScan(nil)
		l.processes = map[int]track.ProcessRound{v.PID: {Looked: c.view.Owned(), Guards: []pagestream.Range{{Start: c.guard, Pages: 1}}}}
		close(l.found)
		_, guards, err := presentPages(t.Context(), c.view, l)
		if errors.Is(err, errGuarded) != c.fails || len(guards) != c.lists {
			t.Errorf("%s: guard pages %v, error %v", name, guards, err)
		}
	}
}

func TestWhoWaitsForTheLastScanEndsWithTheCutover(t *testing.T) {
	v, _ := viewOfSelf(t)
	broken := errors.New("the last round failed")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if _, _, err := presentPages(ctx, v, newLastScan(nil)); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestFrozenProcessesAreScannedOnce(t *testing.T) {
	tracker := track.New(track.Options{List: func() ([]track.Process, error) { return nil, nil }})
	defer tracker.Close()
	l := newLastScan(tracker)
	for _, want := range []error{nil, errScanned} {
		if _, err := l.CollectFrozen(t.Context()); !errors.Is(err, want) {
			if pagemap.ProbeWPAsync() != nil {
				t.Skip(err)
			}
			t.Errorf("error %v, want %v", err, want)
		}
	}
}
