package criu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/test/criunode"
)

// plainDump has criu dump the program in the node as it is, and returns the pages of each process.
func plainDump(t *testing.T, n *criunode.Node, dir string, pid int) map[int][]pagestream.Range {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	into, err := os.MkdirTemp(dir, "images")
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.Command(ctx, "criu", "dump", "-R", "-t", strconv.Itoa(pid), "-D", "/shared/"+filepath.Base(into), "-o", "dump.log").CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(into, "dump.log"))
		t.Fatalf("dump: %v: %s%s", err, out, log)
	}
	maps, err := images.ListPagemaps(into)
	if err != nil {
		t.Fatal(err)
	}
	pages := map[int][]pagestream.Range{}
	for _, m := range maps {
		if m.Shared {
			continue
		}
		_, entries, err := images.ReadPagemapFile(m.Path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			pages[int(m.ID)] = pagestream.AppendRun(pages[int(m.ID)], pagestream.Range{Start: e.Vaddr, Pages: e.Pages})
		}
	}
	return pages
}

// What the images are completed from is what CRIU would have found itself: of processes that were copied before, that have dropped
// and written memory since, seen by the tracker's last scan and by a view's own.
func TestPresentPagesAreThoseOfAPlainDump(t *testing.T) {
	for _, probe := range []func() error{pagemap.ProbeScan, pagemap.ProbeWPAsync} {
		if err := probe(); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	n, err := criunode.New(dir)
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	root, err := n.StartMemory(t.Context(), 24)
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	pids, err := n.PIDs(criunode.MemoryName)
	if err != nil || len(pids) != 2 {
		t.Fatalf("processes %v, %v", pids, err)
	}
	var procs []track.Process
	for pid, inside := range pids {
		procs = append(procs, track.Process{PID: pid, Space: pagestream.Space{Kind: pagestream.Process, ID: uint64(inside)}})
	}
	tracker := track.New(track.Options{List: func() ([]track.Process, error) { return procs, nil }, Inject: track.Inject})
	defer tracker.Close()
	collect := func(what string) {
		t.Run(what, func(t *testing.T) {
			r, err := tracker.CollectFrozen(t.Context()) // nobody writes unless told to
			if err != nil {
				t.Fatal(err)
			}
			plain := plainDump(t, n, dir, root)
			for _, p := range r.Processes {
				v, err := NewView(t.TempDir(), p.PID, pids[p.PID], false)
				if err != nil {
					t.Fatal(err)
				}
				own, _, err := v.Present()
				if err != nil {
					t.Fatal(err)
				}
				want := pagestream.Intersect(plain[v.VPID], v.Owned())
				if len(want) == 0 {
					t.Fatalf("process %d: CRIU has dumped none of %v", v.VPID, v.Owned())
				}
				if !slices.Equal(own, want) {
					t.Errorf("process %d: the view has %d ranges, a plain dump %d", v.VPID, len(own), len(want))
				}
				if got := pagestream.Intersect(p.Present, v.Owned()); !slices.Equal(got, want) {
					t.Errorf("process %d: the last scan has %d ranges, a plain dump %d", v.VPID, len(got), len(want))
				}
			}
		})
	}
	collect("never armed")
	if _, err := tracker.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	collect("as it was copied")
	if err := n.Write(t.Context(), root, 1); err != nil {
		t.Fatal(err)
	}
	collect("written since")
	if err := n.GiveUp(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	collect("given up in part")
}
