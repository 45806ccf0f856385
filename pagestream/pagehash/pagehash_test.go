package pagehash

import (
	"math/rand/v2"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestTablesAreBounded(t *testing.T) {
	h := New(1)
	defer h.Release()
	blocks.Add(maxBlocks - 1)
	defer blocks.Add(-(maxBlocks - 1))
	data := make([]byte, 2*pagestream.PageSize)
	runs := []pagestream.Range{{Start: 0, Pages: 1}, {Start: 1 << 40, Pages: 1}}
	if got, _ := h.Ahead(runs, data, nil); len(got) != 1 || got[0] != runs[0] {
		t.Errorf("%v is sent ahead, want only what can be remembered", got)
	}
	if got, _ := h.Last(runs, data, nil); len(got) != 1 || got[0] != runs[1] {
		t.Errorf("%v is sent at last, want only what was not", got)
	}
}

func TestForgottenPagesAreSentAgain(t *testing.T) {
	h := New(1)
	defer h.Release()
	runs := []pagestream.Range{{Start: (blockPages - 2) * pagestream.PageSize, Pages: 4}}
	data := make([]byte, 4*pagestream.PageSize)
	h.Last(runs, data, nil)
	h.Forget(pagestream.Range{Start: (blockPages - 1) * pagestream.PageSize, Pages: 2})
	got, _ := h.Last(runs, data, nil)
	want := pagestream.Range{Start: (blockPages - 1) * pagestream.PageSize, Pages: 2}
	if len(got) != 1 || got[0] != want {
		t.Errorf("%v is sent after %v was forgotten", got, want)
	}
}

func TestOnlyChangedPagesAreLeft(t *testing.T) {
	h := New(1)
	defer h.Release()
	runs := []pagestream.Range{{Start: 0, Pages: 8}}
	data := content()
	if got, _ := h.Ahead(runs, data, nil); len(got) != 1 || got[0] != runs[0] {
		t.Fatalf("%v of pages never sent", got)
	}
	data = content()
	data[3*pagestream.PageSize] ^= 1
	got, left := h.Ahead(runs, data, nil)
	if len(got) != 1 || got[0] != (pagestream.Range{Start: 3 * pagestream.PageSize, Pages: 1}) || len(left) != pagestream.PageSize {
		t.Errorf("%v and %d bytes are left, want page 3", got, len(left))
	}
}

// content is eight pages, the same at each call.
func content() []byte {
	data := make([]byte, 8*pagestream.PageSize)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(data)
	return data
}
