package lazy

import (
	"fmt"
	"slices"

	"godwit.dev/godwit/pagestream"
)

// window is memory of a process that shows memory of the images: the addresses
// from start to end are, in the images, those from img on.
type window struct{ start, end, img uint64 }

func (w window) size() uint64   { return w.end - w.start }
func (w window) imgEnd() uint64 { return w.img + w.size() }

// part is the window's part between two offsets.
func (w window) part(from, to uint64) window {
	return window{w.start + from, w.start + to, w.img + from}
}

func (w window) valid() error {
	switch {
	case w.start%pageSize != 0 || w.end%pageSize != 0 || w.img%pageSize != 0:
		return fmt.Errorf("window %#x-%#x of %#x is off a page", w.start, w.end, w.img)
	case w.start >= w.end || w.end > pagestream.MaxAddress || w.img > pagestream.MaxAddress-w.size():
		return fmt.Errorf("window %#x-%#x of %#x is empty or too high", w.start, w.end, w.img)
	}
	return nil
}

// translation says where the memory of the images is in a process now: at its own
// address at first, then moved, cut and torn as the process does. No two windows
// overlap, neither in the process nor in the images.
type translation struct {
	byAddr []window // ascending by start
	byImg  []window // the same, ascending by img
}

func byStart(w window) uint64 { return w.start }
func byImage(w window) uint64 { return w.img }

func newTranslation(ws []window) translation {
	t := translation{byAddr: slices.Clone(ws), byImg: slices.Clone(ws)}
	slices.SortFunc(t.byAddr, func(a, b window) int { return compare(a.start, b.start) })
	slices.SortFunc(t.byImg, func(a, b window) int { return compare(a.img, b.img) })
	return t
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// validWindows checks windows from a journal.
func validWindows(ws []window) error {
	for _, w := range ws {
		if err := w.valid(); err != nil {
			return err
		}
	}
	t := newTranslation(ws)
	for i := 1; i < len(ws); i++ {
		if t.byAddr[i-1].end > t.byAddr[i].start || t.byImg[i-1].imgEnd() > t.byImg[i].img {
			return fmt.Errorf("windows overlap")
		}
	}
	return nil
}

func (t translation) clone() translation {
	return translation{slices.Clone(t.byAddr), slices.Clone(t.byImg)}
}

// find returns the first window that ends behind an address, by key.
func find(ws []window, key func(window) uint64, addr uint64) int {
	i, _ := slices.BinarySearchFunc(ws, addr, func(w window, a uint64) int {
		if key(w)+w.size() <= a {
			return -1
		}
		return 1
	})
	return i
}

// image returns the address in the images that addr shows, and for how many bytes
// from there on that is so.
func (t *translation) image(addr uint64) (img, n uint64, ok bool) {
	i := find(t.byAddr, byStart, addr)
	if i == len(t.byAddr) || t.byAddr[i].start > addr {
		return 0, 0, false
	}
	w := t.byAddr[i]
	return w.img + addr - w.start, w.end - addr, true
}

// current returns where the process has an address of the images, and for how many
// bytes on. If it has it no more, n is how many bytes are gone, as far as can be
// told.
func (t *translation) current(img uint64) (addr, n uint64, ok bool) {
	i := find(t.byImg, byImage, img)
	if i == len(t.byImg) {
		return 0, pagestream.MaxAddress - img, false
	}
	w := t.byImg[i]
	if w.img > img {
		return 0, w.img - img, false
	}
	return w.start + img - w.img, w.imgEnd() - img, true
}

// cut takes the addresses from lo to hi, by key, out of windows that ascend by
// key. It returns what is left and what was taken.
func cut(ws []window, key func(window) uint64, lo, hi uint64) (left, taken []window) {
	i := find(ws, key, lo)
	j := i
	var rest []window
	for ; j < len(ws) && key(ws[j]) < hi; j++ {
		w, k := ws[j], key(ws[j])
		from, to := max(lo, k)-k, min(hi, k+w.size())-k
		if from > 0 {
			rest = append(rest, w.part(0, from))
		}
		taken = append(taken, w.part(from, to))
		if to < w.size() {
			rest = append(rest, w.part(to, w.size()))
		}
	}
	if j == i {
		return ws, nil
	}
	return slices.Replace(ws, i, j, rest...), taken
}

// remove forgets the memory of the process between two addresses. It returns what
// that showed.
func (t *translation) remove(start, end uint64) []window {
	var taken []window
	t.byAddr, taken = cut(t.byAddr, byStart, start, end)
	for _, w := range taken {
		t.byImg, _ = cut(t.byImg, byImage, w.img, w.imgEnd())
	}
	return taken
}

// removeImage forgets memory of the images wherever the process has it.
func (t *translation) removeImage(start, end uint64) []window {
	var taken []window
	t.byImg, taken = cut(t.byImg, byImage, start, end)
	for _, w := range taken {
		t.byAddr, _ = cut(t.byAddr, byStart, w.start, w.end)
	}
	return taken
}

// move moves the memory of the process at from to another address. It returns what
// that address showed before.
func (t *translation) move(from, to, n uint64) []window {
	moved := t.remove(from, from+n)
	gone := t.remove(to, to+n)
	for _, w := range moved {
		w.start, w.end = w.start-from+to, w.end-from+to
		t.byAddr = slices.Insert(t.byAddr, find(t.byAddr, byStart, w.start), w)
		t.byImg = slices.Insert(t.byImg, find(t.byImg, byImage, w.img), w)
	}
	return gone
}

// apply changes the translation as an event says, and returns what the process no
// longer has. Addresses that cannot be are left out of account: they come from the
// kernel.
func (t *translation) apply(e event) []window {
	const top = pagestream.MaxAddress
	switch e.kind {
	case eventRemove, eventUnmap:
		if e.a < e.b && e.b <= top {
			return t.remove(e.a, e.b)
		}
	case eventRemap:
		if e.a != e.b && e.c != 0 && e.c <= top && e.a <= top-e.c && e.b <= top-e.c {
			return t.move(e.a, e.b, e.c)
		}
	}
	return nil
}
