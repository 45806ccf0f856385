package lazy

import (
	"encoding/binary"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream"
)

// model says for each page of a small address space which page of the images it shows,
// or -1.
type model [64]int

func (m *model) apply(e event) {
	page := func(a uint64) int { return int(min(a, 64*pageSize) / pageSize) }
	switch e.kind {
	case eventRemove, eventUnmap:
		for i := page(e.a); i < page(e.b); i++ {
			m[i] = -1
		}
	case eventRemap:
		if e.a == e.b {
			return
		}
		from, to, n := page(e.a), page(e.b), int(e.c/pageSize)
		moved := make([]int, n)
		for i := range n {
			moved[i] = -1
			if from+i < 64 {
				moved[i], m[from+i] = m[from+i], -1
			}
		}
		for i := range n {
			if to+i < 64 {
				m[to+i] = moved[i]
			}
		}
	}
}

// eventsOf makes events within the model of any bytes.
func eventsOf(b []byte) []event {
	var events []event
	for ; len(b) >= 4; b = b[4:] {
		e := event{kind: eventFork + b[0]%4, a: uint64(b[1]%64) * pageSize, b: uint64(b[2]%64) * pageSize, c: uint64(b[3]%16) * pageSize}
		if e.kind == eventRemap && (e.a+e.c > 64*pageSize || e.b+e.c > 64*pageSize) {
			continue
		}
		events = append(events, e)
	}
	return events
}

func FuzzTranslationIsWhatPagesHaveBecome(f *testing.F) {
	f.Add([]byte{2, 3, 9, 0, 1, 0, 20, 8, 1, 20, 4, 16, 3, 1, 60, 0})
	f.Add([]byte{1, 0, 32, 15, 1, 16, 3, 15, 2, 0, 1, 0, 1, 5, 6, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		tr := newTranslation([]window{{0, 64 * pageSize, 0}})
		var m model
		for i := range m {
			m[i] = i
		}
		for _, e := range eventsOf(b) {
			var before, gone []int
			for _, img := range m {
				before = append(before, img)
			}
			m.apply(e)
			for _, w := range tr.apply(e) {
				for a := w.img; a < w.imgEnd(); a += pageSize {
					gone = append(gone, int(a/pageSize))
				}
			}
			for _, img := range before {
				if img >= 0 && slices.Contains(m[:], img) == slices.Contains(gone, img) {
					t.Fatalf("%+v: page %d of the images: gone is %v", e, img, slices.Contains(gone, img))
				}
			}
			check(t, tr, m)
		}
	})
}

func check(t *testing.T, tr translation, m model) {
	t.Helper()
	if err := validWindows(tr.byAddr); err != nil {
		t.Fatal(err)
	}
	if len(tr.byAddr) != len(tr.byImg) {
		t.Fatalf("%d windows by address, %d by image", len(tr.byAddr), len(tr.byImg))
	}
	for i, want := range m {
		addr := uint64(i) * pageSize
		img, n, ok := tr.image(addr)
		if ok != (want >= 0) || ok && img != uint64(want)*pageSize {
			t.Fatalf("page %d shows %#x (%v), want page %d", i, img, ok, want)
		}
		if !ok {
			continue
		}
		for k := uint64(0); k < n/pageSize; k++ {
			if m[i+int(k)] != want+int(k) {
				t.Fatalf("page %d: a run of %d pages is too long", i, n/pageSize)
			}
		}
		if back, n, ok := tr.current(img); !ok || back != addr || n == 0 {
			t.Fatalf("page %d of the images is at %#x (%v), want %#x", want, back, ok, addr)
		}
	}
}

func TestTranslationIgnoresAddressesThatCannotBe(t *testing.T) {
	tr := newTranslation([]window{{pageSize, 9 * pageSize, pageSize}})
	for _, e := range []event{
		{eventRemove, 9 * pageSize, pageSize, 0},
		{eventUnmap, 0, ^uint64(0), 0},
		{eventRemap, 0, ^uint64(0) - 100, 200},
		{eventRemap, pagestream.MaxAddress, 0, pageSize},
		{eventRemap, 0, pageSize, 0},
		{eventFault, 0, 9 * pageSize, 9 * pageSize},
	} {
		if gone := tr.apply(e); gone != nil || len(tr.byAddr) != 1 || tr.byAddr[0].size() != 8*pageSize {
			t.Fatalf("%+v has changed it: %+v", e, tr)
		}
	}
}

// encodeEvent writes a message as the kernel does.
func encodeEvent(e event) []byte {
	b := make([]byte, msgSize)
	b[0] = e.kind
	binary.NativeEndian.PutUint64(b[8:], e.a)
	binary.NativeEndian.PutUint64(b[16:], e.b)
	binary.NativeEndian.PutUint64(b[24:], e.c)
	return b
}
