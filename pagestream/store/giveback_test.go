package store

import (
	"bytes"
	"errors"
	"os"
	"sync/atomic"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"golang.org/x/sys/unix"
)

// blocks is how much memory a space's pages take, in pages.
func blocks(t *testing.T, r *Reader) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(dataPath(r.dir, proc(1)), &st))
	return st.Blocks * 512 / pageSize
}

func TestGivingTakesItsMemoryFromTheStoreAndNothingElse(t *testing.T) {
	s := newStore(t, 64<<20)
	const pages = 10*GiveUnit + 7
	all := content(1, pages)
	must(t, s.Pages(proc(1), 0x10000, all))
	r := seal(t, s)
	sp := r.Space(proc(1))
	if gave, err := r.GaveBack(sp); gave || err != nil {
		t.Fatalf("a new store has given back: %v, %v", gave, err)
	}
	g, err := r.OpenGiving(sp)
	must(t, err)
	defer func() { must(t, g.Close()) }()
	if g.Units() != 11 || g.Held() != pages {
		t.Fatalf("%d units, %d pages are held", g.Units(), g.Held())
	}
	must(t, g.Give(2, 3))
	must(t, g.Give(10, 1)) // the last, which is shorter
	if want := int64(pages - 3*GiveUnit - 7); blocks(t, r) != want || g.Held() != uint64(want) {
		t.Errorf("the file has %d pages, %d are said to be held, want %d", blocks(t, r), g.Held(), want)
	}
	e, _ := sp.Find(0x10000)
	for u := range uint64(11) {
		lost := u >= 2 && u < 5 || u == 10
		if g.Given(u) != lost {
			t.Errorf("unit %d is given back: %v", u, !lost)
		}
		from, to := u*GiveUnit*pageSize, min((u+1)*GiveUnit, pages)*pageSize
		if !lost && !bytes.Equal(e.Data[from:to], all[from:to]) {
			t.Errorf("unit %d has other content", u)
		}
	}
	// A crash between note and hole: who opens it next knows, and gives it back.
	atomic.OrUint64(&g.bits[0], 1<<7)
	other, err := OpenSealed(s.Dir())
	must(t, err)
	defer other.Close()
	if gave, err := other.GaveBack(other.Space(proc(1))); !gave || err != nil {
		t.Errorf("it has given back: %v, %v", gave, err)
	}
	next, err := other.OpenGiving(other.Space(proc(1)))
	must(t, err)
	defer next.Close()
	if !next.Given(3) || next.Given(5) || !next.Given(7) {
		t.Errorf("the next finds units 3, 5 and 7 given back: %v, %v, %v", next.Given(3), next.Given(5), next.Given(7))
	}
	if want := int64(pages - 4*GiveUnit - 7); blocks(t, r) != want || next.Held() != uint64(want) {
		t.Errorf("the file has %d pages, %d are said to be held, want %d", blocks(t, r), next.Held(), want)
	}
}

// CRIU makes shared memory from a pages file: what has gone into that leaves the store.
func TestSharedMemoryIsInThePagesFileOrTheStoreAndNotInBoth(t *testing.T) {
	s := newStore(t, 64<<20)
	dir := s.ImagesDir(0)
	shm := pagestream.Space{Kind: pagestream.Shared, ID: 42}
	all := content(1, 1000)
	must(t, s.Pages(shm, 0, all))
	writePagemap(t, images.SharedPagemapPath(dir, 42), 8, nil, images.Entry{Pages: 1000, Flags: images.Present})
	must(t, s.MaterializeShared(0))
	got, err := os.ReadFile(images.PagesPath(dir, 8))
	must(t, err)
	if _, err := os.Stat(dataPath(s.Dir(), shm)); !errors.Is(err, os.ErrNotExist) || !bytes.Equal(got, all) {
		t.Errorf("the store has it too: %v, the pages file is right: %v", err, bytes.Equal(got, all))
	}
	must(t, s.MaterializeShared(0)) // it is there
	// What an attempt that fails has left of the store is not to be restored from.
	must(t, s.Pages(pagestream.Space{Kind: pagestream.Shared, ID: 43}, 0, all))
	writePagemap(t, images.SharedPagemapPath(dir, 43), 9, nil, images.Entry{Pages: 1001, Flags: images.Present})
	if err := s.MaterializeShared(0); !errors.Is(err, ErrMissing) {
		t.Errorf("shared memory that is not there: %v", err)
	}
	if err := s.Seal(); !errors.Is(err, ErrMissing) {
		t.Errorf("the store is sealed: %v", err)
	}
}

func TestAStoreWithoutRoomForTheNoteGivesNothingBack(t *testing.T) {
	s := newStore(t, 1<<20)
	must(t, s.Pages(proc(1), 0x10000, content(1, 8)))
	r := seal(t, s)
	f, err := os.Create(r.dir + "/rest")
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, pageSize))
	}
	sp := r.Space(proc(1))
	if _, err := r.OpenGiving(sp); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v", err)
	}
	if gave, err := r.GaveBack(sp); gave || err != nil {
		t.Errorf("it has given back: %v, %v", gave, err)
	}
	must(t, os.Remove(f.Name()))
	must(t, f.Truncate(0))
	g, err := r.OpenGiving(sp)
	must(t, err)
	must(t, g.Close())
}
