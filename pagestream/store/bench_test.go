package store

import (
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// fill4GiB makes a space of 4 GiB of which only the index is real: the pages
// are all in one slot's place.
func index4GiB(b *testing.B, s *Store) []images.Entry {
	sp, err := s.take(proc(1))
	must(b, err)
	var entries []images.Entry
	const run = 64
	for page := uint64(1 << 20); page < 2<<20; page += run {
		sp.index.writable(page / chunkPages)
		c := sp.index.chunks[page/chunkPages]
		for i := range uint64(run) {
			c.set((page+i)%chunkPages, entry(page+i))
		}
		entries = append(entries, images.Entry{Vaddr: page * pageSize, Pages: run, Flags: images.Lazy})
	}
	return entries
}

func BenchmarkPages(b *testing.B) {
	frame := content(1, 64)
	const frames = 4096 // 1 GiB
	b.Run("new", func(b *testing.B) {
		s := newStore(b, 2<<30)
		b.SetBytes(int64(len(frame)))
		i := 0
		for b.Loop() {
			if i++; i%frames == 0 {
				b.StopTimer()
				must(b, s.DropSpace(proc(1)))
				b.StartTimer()
			}
			must(b, s.Pages(proc(1), uint64(i%frames)<<18, frame))
		}
	})
	b.Run("again", func(b *testing.B) {
		s := newStore(b, 2<<30)
		for i := range uint64(frames) {
			must(b, s.Pages(proc(1), i<<18, frame))
		}
		b.SetBytes(int64(len(frame)))
		i := 0
		for b.Loop() {
			i++
			must(b, s.Pages(proc(1), uint64(i%frames)<<18, frame))
		}
	})
}

func BenchmarkComplete4GiB(b *testing.B) {
	s := newStore(b, 64<<20)
	writePagemap(b, images.PagemapPath(s.ImagesDir(0), 1), 1, nil, index4GiB(b, s)...)
	for b.Loop() {
		missing, err := s.Complete(0)
		if err != nil || len(missing) != 0 {
			b.Fatal(missing, err)
		}
	}
}

func BenchmarkSeal4GiB(b *testing.B) {
	s := newStore(b, 64<<20)
	index4GiB(b, s)
	sp, _ := s.lookup(proc(1))
	for b.Loop() {
		must(b, sp.seal())
	}
}

// BenchmarkMaterializeShared writes 64 MiB of shared memory out for CRIU, which came in one piece, and page by page in another order.
func BenchmarkMaterializeShared(b *testing.B) {
	const pages = 64 << 20 / pageSize
	for name, next := range map[string]func(i uint64) uint64{
		"in order":  func(i uint64) uint64 { return i },
		"scattered": func(i uint64) uint64 { return i * 5 % pages },
	} {
		b.Run(name, func(b *testing.B) {
			shared := pagestream.Space{Kind: pagestream.Shared, ID: 1}
			b.SetBytes(pages * pageSize)
			for b.Loop() {
				b.StopTimer()
				s := newStore(b, 256<<20)
				for i := range uint64(pages) {
					must(b, s.Pages(shared, next(i)*pageSize, content(i+1, 1)))
				}
				writePagemap(b, images.SharedPagemapPath(s.ImagesDir(0), 1), 1, nil, images.Entry{Pages: pages, Flags: images.Present})
				b.StartTimer()
				must(b, s.MaterializeShared(0))
				b.StopTimer()
				must(b, s.Remove())
				b.StartTimer()
			}
		})
	}
}
