package pagehash

import (
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestPagesThatHaveWhatTheyHadAreNotLeft(t *testing.T) {
	h := NewPrivate(1)
	defer h.Release()
	runs := []pagestream.Range{{Start: (blockPages - 4) * pagestream.PageSize, Pages: 8}} // over two blocks
	changed := func() []byte {
		data := content()
		data[5*pagestream.PageSize] ^= 1
		return data
	}
	for range 2 {
		if got, _ := h.Changed(runs, content(), nil); len(got) == 0 {
			t.Fatal("pages that are not known are not sent")
		}
		got, left := h.Changed(runs, changed(), nil)
		if len(got) != 1 || got[0] != (pagestream.Range{Start: (blockPages + 1) * pagestream.PageSize, Pages: 1}) || len(left) != pagestream.PageSize {
			t.Fatalf("%v and %d bytes are left, want the page that changed", got, len(left))
		}
		if left[0] != changed()[5*pagestream.PageSize] {
			t.Error("what is left is another page")
		}
		if got, _ = h.Changed(runs, changed(), nil); len(got) != 0 {
			t.Errorf("%v is left of what was sent", got)
		}
	}
}

func TestPagesOfZerosAreKnownToo(t *testing.T) {
	h := NewPrivate(1)
	defer h.Release()
	runs := []pagestream.Range{{Start: 0, Pages: 1}}
	zero := make([]byte, pagestream.PageSize)
	for i, want := range []int{1, 0} {
		if got, _ := h.Changed(runs, zero, nil); len(got) != want {
			t.Errorf("time %d: %v is sent", i, got)
		}
	}
}

func TestPagesThatCannotBeRememberedAreSent(t *testing.T) {
	h := NewPrivate(1)
	defer h.Release()
	wideBlocks.Add(maxWideBlocks)
	defer wideBlocks.Add(-maxWideBlocks)
	runs := []pagestream.Range{{Start: 0, Pages: 2}}
	for range 2 {
		if got, _ := h.Changed(runs, make([]byte, 2*pagestream.PageSize), nil); len(got) != 1 || got[0] != runs[0] {
			t.Errorf("%v is sent, want all of %v", got, runs)
		}
	}
}

func BenchmarkChanged(b *testing.B) {
	h := NewPrivate(1)
	defer h.Release()
	runs := []pagestream.Range{{Start: 0, Pages: 64}}
	data := make([]byte, 64*pagestream.PageSize)
	dst := make([]pagestream.Range, 0, 64)
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		for page := range 64 {
			data[page*pagestream.PageSize] = byte(i)
		}
		h.Changed(runs, data, dst)
	}
}
