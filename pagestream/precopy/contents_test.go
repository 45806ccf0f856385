package precopy

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagemap"
)

func newTestContents(t *testing.T) *Contents {
	t.Helper()
	c, err := NewContents(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// randomPages are pages of which no two are alike.
func randomPages(seed uint64, pages int) []byte {
	b := make([]byte, pages*pagestream.PageSize)
	r := rand.NewPCG(seed, 1)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

// mapFile maps a file of so many pages for this process alone.
func mapFile(t *testing.T, pages int) ([]byte, uint64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "library")
	if err := os.WriteFile(path, randomPages(99, pages), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, pages*pagestream.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem, addressOf(mem)
}

func TestOnlyPagesOfFilesThatAProcessHasChangedAreCopiedAhead(t *testing.T) {
	if err := pagemap.ProbeScan(); err != nil {
		t.Skip(err)
	}
	const pages = 40
	mem, at := mapFile(t, pages)
	var read byte
	for i := 0; i < pages; i++ {
		read += mem[i*pagestream.PageSize]
	}
	for _, i := range []int{3, 4, 20} {
		mem[i*pagestream.PageSize] = 1 + read
	}
	if err := unix.Mprotect(mem[20*pagestream.PageSize:21*pagestream.PageSize], unix.PROT_READ); err != nil { // as a linker does
		t.Fatal(err)
	}
	found, err := changedOfFiles(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	found = pagestream.Intersect(found, []pagestream.Range{{Start: at, Pages: pages}})
	want := []pagestream.Range{{Start: at + 3*pagestream.PageSize, Pages: 2}, {Start: at + 20*pagestream.PageSize, Pages: 1}}
	if !slices.Equal(found, want) {
		t.Errorf("found %v, want %v", found, want)
	}
}

// dumpPages writes pages files as CRIU would.
func dumpPages(t *testing.T, dir string, files map[images.PagesID][]byte) {
	t.Helper()
	for id, b := range files {
		if err := os.WriteFile(images.PagesPath(dir, id), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// made is the pages file that the destination makes.
func made(t *testing.T, s *sink, space pagestream.Space, dir string, id images.PagesID) []byte {
	t.Helper()
	c, err := images.ReadContentsFile(images.ContentsPath(dir, id))
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, n := range c.Numbers {
		b = append(b, s.page(space, uint64(n)*pagestream.PageSize)...)
	}
	if images.ContentsSum(0, b) != c.Sum {
		t.Errorf("pages file %d: the checksum is another", id)
	}
	return b
}

func TestContentsThatProcessesHaveInCommonAreSentOnceAndAheadOfTheDump(t *testing.T) {
	if err := pagemap.ProbeScan(); err != nil {
		t.Skip(err)
	}
	const pages = 600
	mem, _ := mapFile(t, pages)
	copy(mem, randomPages(1, pages))
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: newScripted(t, 1), Session: s, Contents: newTestContents(t)})
	self := Memory{PID: os.Getpid(), Space: pagestream.Space{Container: 3, Kind: pagestream.Process, ID: 1}}
	ahead, err := r.CopyContents(t.Context(), []Memory{self})
	if err != nil || ahead.Sent < pages {
		t.Fatalf("%+v, %v", ahead, err)
	}
	again, err := r.CopyContents(t.Context(), []Memory{self})
	if err != nil || again.Sent > ahead.Sent/2 { // the test's own memory changes
		t.Fatalf("again: %+v, %v", again, err)
	}
	// Of three processes, one has changed a page meanwhile; two have another page, with the same content. One more is not to be looked at.
	dir := t.TempDir()
	first, third := slices.Clone(mem), slices.Clone(mem[:pages/2*pagestream.PageSize])
	second := append(randomPages(2, 1), mem[pagestream.PageSize:]...)
	third = append(third, randomPages(2, 1)...)
	files := map[images.PagesID][]byte{1: first, 2: second, 4: third}
	dumpPages(t, dir, files)
	dumpPages(t, dir, map[images.PagesID][]byte{5: randomPages(5, 3)})
	names, last, err := r.FinishContents(t.Context(), 3, dir, []string{"pages-5.img"})
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"pages-1.img", "pages-2.img", "pages-4.img"}) || last.Sent != 1 {
		t.Fatalf("%v, %+v, %v", names, last, err)
	}
	for id, want := range files {
		if !bytes.Equal(made(t, s, pagestream.Space{Container: 3, Kind: pagestream.Content}, dir, id), want) {
			t.Errorf("pages file %d differs", id)
		}
	}
	s.check(t)
}

func TestPagesFilesThatNobodyKnowsGoAsTheyAre(t *testing.T) {
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: newScripted(t, 1), Session: s, Contents: newTestContents(t)})
	dir := t.TempDir()
	few := randomPages(1, fewContents)
	dumpPages(t, dir, map[images.PagesID][]byte{1: few, 2: few, 3: randomPages(2, 2*fewContents), 4: nil, 5: []byte("no pages")})
	names, last, err := r.FinishContents(t.Context(), 0, dir, nil)
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"pages-1.img", "pages-2.img"}) || last.Sent != fewContents {
		t.Fatalf("%v, %+v, %v", names, last, err)
	}
	if ids, err := images.ListContents(dir); err != nil || len(ids) != 2 {
		t.Errorf("something stands for %v, %v", ids, err)
	}
	for id := range images.PagesID(2) {
		if !bytes.Equal(made(t, s, pagestream.Space{Kind: pagestream.Content}, dir, id+1), few) {
			t.Errorf("pages file %d differs", id+1)
		}
	}
}

// The destination has contents beside what it makes of them, so there is an end.
func TestThereAreOnlySoManyContents(t *testing.T) {
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: newScripted(t, 1), Session: s, Contents: newTestContents(t)})
	dir := t.TempDir()
	files := map[images.PagesID][]byte{}
	for id := range images.PagesID(maxContents/fewContents + 2) {
		files[id+1] = randomPages(uint64(id), fewContents)
	}
	dumpPages(t, dir, files)
	names, last, err := r.FinishContents(t.Context(), 0, dir, nil)
	// Two that are looked at beside each other may both be cut short.
	if err != nil || last.Sent != maxContents || len(names) < maxContents/fewContents-8 || len(names) > maxContents/fewContents {
		t.Fatalf("%d files, %+v, %v", len(names), last, err)
	}
	ids, err := images.ListContents(dir)
	if err != nil || len(ids) != len(names) {
		t.Fatalf("%v, %v", ids, err)
	}
	for _, id := range ids {
		if !bytes.Equal(made(t, s, pagestream.Space{Kind: pagestream.Content}, dir, id), files[id]) {
			t.Errorf("pages file %d differs", id)
		}
	}
}

func TestADestinationThatTakesNoContentsGetsPagesFiles(t *testing.T) {
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: newScripted(t, 1), Session: s})
	dir := t.TempDir()
	dumpPages(t, dir, map[images.PagesID][]byte{1: randomPages(1, 3)})
	if _, err := r.CopyContents(t.Context(), []Memory{{PID: os.Getpid()}}); err != nil {
		t.Error(err)
	}
	if names, _, err := r.FinishContents(t.Context(), 0, dir, nil); err != nil || names != nil || s.sent != 0 {
		t.Errorf("%v, %v, %d pages were sent", names, err, s.sent)
	}
}
