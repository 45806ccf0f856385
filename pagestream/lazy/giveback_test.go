package lazy

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/images"
)

// held is the memory that the pages of a store take, in pages.
func held(t testing.TB, dir string) uint64 {
	t.Helper()
	return taken(t, filepath.Join(dir, "pages", "*.data"))
}

// taken is the memory that files take, in pages.
func taken(t testing.TB, pattern string) uint64 {
	t.Helper()
	files, err := filepath.Glob(pattern)
	must(t, err)
	if len(files) == 0 {
		t.Fatal("there are no files ", pattern)
	}
	var n uint64
	for _, path := range files {
		st, err := os.Stat(path)
		must(t, err)
		n += uint64(st.Sys().(*syscall.Stat_t).Blocks) * 512 / pageSize
	}
	return n
}

// Store and processes together never have much more than the pages that there are, though
// they came in no order, and the store has none at the end.
func TestMemoryIsHeldAboutOnceWhileItIsFilledIn(t *testing.T) {
	for _, c := range []struct {
		name                      string
		processes, pages, threads int
		inside                    bool
	}{
		{"nobody looks", 1, 20000, 0, true},
		{"nobody looks at several processes", 3, 8000, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := sealedStore(t, c.processes, c.pages, false)
			before := held(t, dir)
			own := taken(t, filepath.Join(dir, "images", "0", "pages-*.img"))
			l := newLab(t, dir, c.inside)
			must(t, l.run(t, c.processes, c.pages, c.threads, 0, 1))
			p := l.keeper.Progress()
			if most := (before + own) * 115 / 100; p.Peak > most || p.Peak < before {
				t.Errorf("store and processes had %d pages at most, there are %d", p.Peak, before+own)
			}
			if after := held(t, dir); after != 0 || p.Held != 0 {
				t.Errorf("the store has %d pages at the end, it says %d", after, p.Held)
			}
		})
	}
}

// Before the container runs its store is its only copy: nothing of it is given back, and what
// it faults on is filled in all the same.
func TestNothingIsGivenBackBeforeTheContainerRuns(t *testing.T) {
	dir := sealedStore(t, 1, 2000, false)
	before := held(t, dir)
	l := newLab(t, dir, false)
	l.unreleased, l.breakOff = true, true
	_ = l.run(t, 1, 2000, 4, 0, 1) // each thread reads its part to the end
	if after := held(t, dir); after != before {
		t.Errorf("the store had %d pages, and has %d", before, after)
	}
	// Nothing has happened to it: a restore can be made from it.
	again := newLab(t, dir, false)
	again.journal = filepath.Join(dir, "journal-2")
	must(t, again.run(t, 1, 2000, 4, 0, 1))
}

// CRIU has read what it restores by itself before the container runs: that goes then, and what
// pages are still filled in from stays.
func TestPagesFilesThatNobodyNeedsGoWhenTheContainerRuns(t *testing.T) {
	for _, unreleased := range []bool{true, false} {
		dir := sealedStore(t, 1, 8000, false)
		img := filepath.Join(dir, "images", "0")
		var b bytes.Buffer
		must(t, images.WritePagemap(&b, 77, []images.Entry{{Pages: 100, Flags: images.Present}}))
		must(t, os.WriteFile(images.SharedPagemapPath(img, 42), b.Bytes(), 0o600))
		must(t, os.WriteFile(images.PagesPath(img, 77), make([]byte, 100*pageSize), 0o600))
		l := newLab(t, dir, true)
		l.unreleased, l.breakOff = unreleased, unreleased
		threads := 0
		if unreleased {
			threads = 1
		}
		_ = l.run(t, 1, 8000, threads, 0, 1)
		shared, err := os.Stat(images.PagesPath(img, 77))
		must(t, err)
		own, err := os.Stat(images.PagesPath(img, 1))
		must(t, err)
		if there := shared.Size() > 0; there != unreleased {
			t.Errorf("not released: %v, the pages of shared memory are there: %v", unreleased, there)
		}
		if own.Size() == 0 {
			t.Error("a pages file is gone that pages were filled in from")
		}
	}
}

// Where pages were given back, a restore from the beginning would find holes: it is refused.
func TestAStoreThatGaveMemoryBackServesNoOtherRestore(t *testing.T) {
	dir := sealedStore(t, 1, 2000, false)
	l := newLab(t, dir, true)
	must(t, l.run(t, 1, 2000, 1, 0, 1))
	again := newLab(t, dir, true)
	again.keeper.cfg.Restarts = 1
	err := again.run(t, 1, 2000, 0, 0, 1)
	if !errors.Is(err, ErrServer) || !errors.Is(err, ErrGivenBack) || !strings.Contains(err.Error(), "restored anew") {
		t.Errorf("got %v", err)
	}
}

// Servers die between putting pages in place, noting them and giving them back; whatever they
// leave, each process finds its own.
func TestWhatIsHeldTwiceByACrashIsGivenBackByTheNextServer(t *testing.T) {
	dir := sealedStore(t, 1, 20000, false)
	l := newLab(t, dir, false)
	l.rate = 200e6
	_, _ = compile()
	stop, killed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(killed)
		for n := 0; n < 5; {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if p := l.keeper.Progress(); p.Held > 0 && p.Restarts == n { // it gives back
				l.kill()
				n++
			}
		}
	}()
	err := l.run(t, 1, 20000, 0, 0, 1)
	close(stop)
	<-killed
	must(t, err)
	if after := held(t, dir); after != 0 {
		t.Errorf("the store has %d pages at the end", after)
	}
	if p := l.keeper.Progress(); p.Restarts == 0 || p.Filled != p.Total {
		t.Errorf("progress %+v", p)
	}
}
