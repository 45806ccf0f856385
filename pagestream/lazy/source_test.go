package lazy

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
)

func TestSourceOfAPageThatNobodyHoldsIsAnError(t *testing.T) {
	dir := t.TempDir()
	writeImages(t, dir, 1, []images.Entry{{Vaddr: 0x1000, Pages: 2, Flags: images.Lazy | images.Present}}, make([]byte, 2*pageSize))
	if s, err := loadSource(dir, 1, nil); err != nil || s.pages != 2 {
		t.Fatalf("pages that CRIU wrote: %v", err)
	}
	writeImages(t, dir, 1, []images.Entry{{Vaddr: 0x1000, Pages: 3, Flags: images.Lazy | images.Present}}, make([]byte, 2*pageSize))
	if _, err := loadSource(dir, 1, nil); !errors.Is(err, images.ErrFormat) {
		t.Fatalf("a pages file that is too short: %v", err)
	}
	writeImages(t, dir, 1, []images.Entry{{Vaddr: 0x1000, Pages: 1, Flags: images.Lazy}}, nil)
	if _, err := loadSource(dir, 1, nil); !errors.Is(err, store.ErrMissing) {
		t.Fatalf("a page in neither store nor images: %v", err)
	}
	if _, err := loadSource(filepath.Join(dir, "none"), 1, nil); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("no images: %v", err)
	}
}

func TestForkedChildFindsZerosInAreasThatAreWiped(t *testing.T) {
	dir := t.TempDir()
	writeImages(t, dir, 1, []images.Entry{{Vaddr: 0x1000, Pages: 16, Flags: images.Lazy | images.Present}}, make([]byte, 16*pageSize), 0x3000, 0x5000)
	src, err := loadSource(dir, 1, nil)
	must(t, err)
	m := &memory{id: 1, source: src, where: newTranslation(src.hull())}
	m.resetDone()
	m.apply(event{eventRemap, 0x4000, 0x100000, 0x1000}) // half of the area has moved
	c := m.fork(2, -1)
	for addr, shows := range map[uint64]bool{0x2000: true, 0x3000: false, 0x100000: false, 0x5000: true} {
		if _, _, ok := c.where.image(addr); ok != shows {
			t.Errorf("%#x in the child: shows the images is %v", addr, ok)
		}
	}
	if c.done.left != 14 || m.done.left != 16 {
		t.Errorf("%d pages are left in the child, %d in the parent", c.done.left, m.done.left)
	}
}

func TestBitmapCountsAndFinds(t *testing.T) {
	const n = 300
	r := rand.New(rand.NewPCG(1, 2))
	b, model := newBitmap(n), make([]bool, n)
	for range 400 {
		first := r.Uint64N(n)
		k := min(1+r.Uint64N(1+r.Uint64N(100)), n-first)
		if r.IntN(8) > 0 {
			k = 1
		}
		b.set(first, k)
		left := uint64(n)
		for i := range model {
			model[i] = model[i] || uint64(i) >= first && uint64(i) < first+k
			if model[i] {
				left--
			}
		}
		if b.left != left {
			t.Fatalf("%d bits are left, want %d", b.left, left)
		}
		from, to := r.Uint64N(n), uint64(n)-r.Uint64N(20)
		if from >= to {
			continue
		}
		want := to
		if i := slices.Index(model[from:to], false); i >= 0 {
			want = from + uint64(i)
		}
		got := b.next(from, to)
		if got != want {
			t.Fatalf("next from %d to %d is %d, want %d", from, to, got, want)
		}
		if got == to {
			continue
		}
		end := to
		if i := slices.Index(model[got:to], true); i >= 0 {
			end = got + uint64(i)
		}
		if k := b.run(got, to); k != end-got {
			t.Fatalf("run from %d to %d is %d, want %d", got, to, k, end-got)
		}
	}
}
