package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"google.golang.org/protobuf/encoding/protowire"
)

// restoreShared makes shared memory of so many pages as CRIU does (criu/shmem.c, do_restore_shmem_content): entry by
// entry, each behind the one before in the pages file.
func restoreShared(t *testing.T, dir string, shmid uint64, pages int) []byte {
	t.Helper()
	path := images.SharedPagemapPath(dir, shmid)
	id, err := images.ReadPagesID(path)
	must(t, err)
	file, err := os.ReadFile(images.PagesPath(dir, id))
	must(t, err)
	image, err := os.ReadFile(path)
	must(t, err)
	memory, written := make([]byte, pages*pageSize), make([]bool, pages)
	at := uint64(0)
	for image, head := image[8:], true; len(image) > 0; head = false {
		n := binary.LittleEndian.Uint32(image)
		msg := image[4 : 4+n]
		image = image[4+n:]
		if head {
			continue
		}
		field := map[protowire.Number]uint64{}
		for len(msg) > 0 {
			num, _, n := protowire.ConsumeTag(msg)
			v, m := protowire.ConsumeVarint(msg[n:])
			field[num], msg = v, msg[n+m:]
		}
		if images.Flags(field[4]) != images.Present {
			t.Fatalf("entry at %#x has flags %#x", field[1], field[4])
		}
		vaddr, size := field[1], field[5]*pageSize
		if vaddr+size > uint64(len(memory)) {
			t.Fatalf("entry %#x of %d pages is behind the end: CRIU stops there", vaddr, field[5])
		}
		copy(memory[vaddr:vaddr+size], file[at:at+size])
		at += size
		for i := vaddr / pageSize; i < (vaddr+size)/pageSize; i++ {
			if written[i] {
				t.Errorf("page %d is listed twice", i)
			}
			written[i] = true
		}
	}
	return memory
}

// CRIU restores the memory that the source had, in whichever order its pages came, and whatever became of them meanwhile.
func TestSharedMemoryIsRestoredFromThePagesAsTheyCame(t *testing.T) {
	const pages = 2000
	shm := pagestream.Space{Kind: pagestream.Shared, ID: 42}
	type part struct{ at, n uint64 } // pages
	tests := []struct {
		name   string
		fill   func(t *testing.T, s *Store, put func(at, n uint64))
		listed []part
		copied bool // not what came, but a copy is the pages file
	}{
		{name: "in order", listed: []part{{0, pages}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			put(0, pages)
		}},
		{name: "in turns, some again", listed: []part{{0, pages}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			for at := uint64(0); at < pages; at += 200 {
				put(at+100, 100)
				put(at, 100)
			}
			put(350, 300)
			put(0, 1)
		}},
		{name: "zeros that never had content", listed: []part{{0, 700}, {1000, 1000}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			put(1000, 1000)
			must(t, s.Zero(shm, 0, 700))
		}},
		{name: "zeros that had", listed: []part{{0, pages}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			put(0, pages)
			must(t, s.Zero(shm, 100*pageSize, 900))
			put(300, 2)
		}},
		{name: "holes made since", listed: []part{{0, 500}, {510, 90}, {640, pages - 640}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			put(0, pages)
		}},
		{name: "many holes made since", copied: true, listed: []part{{0, 500}, {1500, pages - 1500}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			put(0, pages)
		}},
		{name: "shorter than it was", copied: true, listed: []part{{0, pages - 1}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			put(0, pages)
		}},
		{name: "in no order", copied: true, listed: []part{{0, pages}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			for at := uint64(0); at < pages; at++ {
				put(at*7%pages, 1)
			}
		}},
		{name: "only zeros", listed: []part{{0, pages}}, fill: func(t *testing.T, s *Store, put func(at, n uint64)) {
			must(t, s.Zero(shm, 0, pages))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t, 64<<20)
			dir := s.ImagesDir(0)
			want := make([]byte, pages*pageSize)
			seed := uint64(0)
			test.fill(t, s, func(at, n uint64) {
				seed++
				c := content(seed, int(n))
				must(t, s.Pages(shm, at*pageSize, c))
				copy(want[at*pageSize:], c)
			})
			var entries []images.Entry
			end := uint64(0)
			for _, p := range test.listed {
				clear(want[end*pageSize : p.at*pageSize])
				must(t, s.Stored(shm, p.at*pageSize, want[p.at*pageSize:(p.at+p.n)*pageSize]))
				entries = append(entries, images.Entry{Vaddr: p.at * pageSize, Pages: p.n, Flags: images.Present})
				end = p.at + p.n
			}
			clear(want[end*pageSize:])
			writePagemap(t, images.SharedPagemapPath(dir, 42), 8, nil, entries...)
			before, err := os.Stat(dataPath(s.Dir(), shm))
			must(t, err)
			must(t, s.MaterializeShared(0))
			after, err := os.Stat(images.PagesPath(dir, 8))
			must(t, err)
			if same := os.SameFile(before, after); same == test.copied {
				t.Errorf("the pages file is what the pages came into: %v", same)
			}
			got := restoreShared(t, dir, 42, int(end))
			if !bytes.Equal(got, want[:len(got)]) {
				t.Error("the memory differs")
			}
			must(t, s.MaterializeShared(0)) // it is there
			must(t, s.Seal())
			r, err := OpenSealed(s.Dir())
			must(t, err)
			must(t, r.Close())
		})
	}
}

func TestMaterializeSharedLeavesAPagesFileThatWasSent(t *testing.T) {
	s := newStore(t, 64<<20)
	dir := s.ImagesDir(3)
	sent := content(3, 2)
	writePagemap(t, images.SharedPagemapPath(dir, 43), 9, sent, images.Entry{Vaddr: 0, Pages: 2, Flags: images.Present})
	must(t, s.MaterializeShared(3))
	if got, _ := os.ReadFile(images.PagesPath(dir, 9)); !bytes.Equal(got, sent) {
		t.Fatal("a pages file that was sent has been changed")
	}
	writePagemap(t, images.SharedPagemapPath(dir, 44), 10, nil, images.Entry{Vaddr: 0, Pages: 1, Flags: images.Present})
	if err := s.MaterializeShared(3); !errors.Is(err, ErrMissing) {
		t.Fatalf("shared memory that is not there: %v", err)
	}
}

// What has become a pages file is no more counted against the limit as the store's own.
func TestSharedMemoryThatWasHandedOverIsNotCountedTwice(t *testing.T) {
	s := newStore(t, 64<<20)
	shm := pagestream.Space{Kind: pagestream.Shared, ID: 1}
	must(t, s.Pages(shm, 0, content(1, 100)))
	writePagemap(t, images.SharedPagemapPath(s.ImagesDir(0), 1), 8, nil, images.Entry{Pages: 100, Flags: images.Present})
	must(t, s.MaterializeShared(0))
	st, err := s.Stats()
	must(t, err)
	if st.Used != 0 || st.Spaces != 0 {
		t.Errorf("%d bytes in %d spaces are counted", st.Used, st.Spaces)
	}
}
