package lazy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// base is where testdata/restored.c has the memory of a process.
func base(number int) uint64 { return 0x10000000000 + uint64(number)<<36 }

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func appendContent(b []byte, addr uint64) []byte {
	for i := uint64(0); i < pageSize; i += 8 {
		b = binary.LittleEndian.AppendUint64(b, mix(addr+i))
	}
	return b
}

// What restored.c expects of a page, by its number: not in the images, in them as
// zero, or with content, which for some pages is in CRIU's own pages file.
func absent(n uint64) bool { return n%11 == 5 }

func zero(n uint64) bool { return n%7 == 3 || n/64%5 == 2 }

func present(n uint64) bool { return n/256%7 == 6 }

// sealedStore makes the store and images of processes with so many pages each.
func sealedStore(t testing.TB, processes, pages int, plain bool) string {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "store"), store.Options{Limit: 64<<20 + 2*int64(processes*pages)*pageSize})
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to mount:", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, s.Remove()) })
	r := rand.New(rand.NewPCG(1, uint64(pages)))
	for number := 1; number <= processes; number++ {
		fillStore(t, s, r, number, pages, plain)
	}
	must(t, s.Seal())
	return s.Dir()
}

func fillStore(t testing.TB, s *store.Store, r *rand.Rand, number, pages int, plain bool) {
	sp := pagestream.Space{Kind: pagestream.Process, ID: uint64(number)}
	var entries []images.Entry
	var own []byte
	type frame struct {
		at   uint64
		data []byte
	}
	var frames []frame
	for i := range uint64(pages) {
		at := base(number) + i*pageSize
		n := at / pageSize
		e := images.Entry{Vaddr: at, Pages: 1, Flags: images.Lazy}
		switch {
		case plain:
			if i%64 == 0 {
				must(t, s.Pages(sp, at, plainFrame))
			}
		case absent(n):
			continue
		case present(n):
			e.Flags |= images.Present
			if zero(n) {
				own = append(own, make([]byte, pageSize)...)
			} else {
				own = appendContent(own, at)
			}
		case zero(n):
			must(t, s.Zero(sp, at, 1))
		default:
			if k := len(frames) - 1; k >= 0 && frames[k].at+uint64(len(frames[k].data)) == at && r.IntN(10) > 0 {
				frames[k].data = appendContent(frames[k].data, at)
			} else {
				frames = append(frames, frame{at, appendContent(nil, at)})
			}
		}
		if k := len(entries) - 1; k >= 0 && entries[k].End() == at && entries[k].Flags == e.Flags {
			entries[k].Pages++
		} else {
			entries = append(entries, e)
		}
	}
	// Rounds bring pages out of order.
	r.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	for _, f := range frames {
		must(t, s.Pages(sp, f.at, f.data))
	}
	writeImages(t, s.ImagesDir(0), number, entries, own)
}

// plainFrame is content for benchmarks, which only have to move it.
var plainFrame = bytes.Repeat([]byte("incompressible.."), 64*pageSize/16)

func writeImages(t testing.TB, dir string, number int, entries []images.Entry, own []byte, wiped ...uint64) {
	t.Helper()
	var b bytes.Buffer
	must(t, images.WritePagemap(&b, images.PagesID(number), entries))
	must(t, os.WriteFile(images.PagemapPath(dir, uint64(number)), b.Bytes(), 0o600))
	must(t, os.WriteFile(images.PagesPath(dir, images.PagesID(number)), own, 0o600))
	var mm []byte
	for i := 0; i < len(wiped); i += 2 {
		var v []byte
		for _, f := range []struct {
			num protowire.Number
			v   uint64
		}{{1, wiped[i]}, {2, wiped[i+1]}, {5, 3}, {6, 0x22}, {7, 0x201}, {9, 1 << 18}} {
			v = protowire.AppendVarint(protowire.AppendTag(v, f.num, protowire.VarintType), f.v)
		}
		mm = protowire.AppendBytes(protowire.AppendTag(mm, 14, protowire.BytesType), v)
	}
	img := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	img = binary.LittleEndian.AppendUint32(img, 0x57492820)
	img = append(binary.LittleEndian.AppendUint32(img, uint32(len(mm))), mm...)
	must(t, os.WriteFile(images.MMPath(dir, uint64(number)), img, 0o600))
}
