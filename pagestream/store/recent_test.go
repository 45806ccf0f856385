package store

import (
	"errors"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestWhatCameLastIsRememberedTheLastFirst(t *testing.T) {
	s := newStore(t, 64<<20)
	name := proc(1)
	page := func(i uint64) uint64 { return 0x100000 + i*pagestream.PageSize }
	const runs = MaxRecent + 10
	for i := range uint64(runs) {
		must(t, s.Pages(name, page(4*i), content(1, 1)))
		must(t, s.Pages(name, page(4*i+1), content(2, 1))) // goes on where the one before ends
	}
	must(t, s.Pages(name, page(0), content(3, 1))) // again
	must(t, s.Seal())
	r, err := OpenSealed(s.Dir())
	must(t, err)
	t.Cleanup(func() { r.Close() })
	got, err := r.Recent(r.Space(name))
	must(t, err)
	want := []pagestream.Range{{Start: page(0), Pages: 1}}
	for i := uint64(runs - 1); len(want) < MaxRecent; i-- {
		want = append(want, pagestream.Range{Start: page(4 * i), Pages: 2})
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d runs came last, from %v on; should be %d from %v on", len(got), got[:min(3, len(got))], len(want), want[:3])
	}
}

func TestASpaceWithoutPagesRemembersNone(t *testing.T) {
	s := newStore(t, 64<<20)
	must(t, s.Zero(proc(1), 0x100000, 8))
	must(t, s.Seal())
	r, err := OpenSealed(s.Dir())
	must(t, err)
	t.Cleanup(func() { r.Close() })
	if got, err := r.Recent(r.Space(proc(1))); err != nil || len(got) > 0 {
		t.Fatalf("%v came last, error %v", got, err)
	}
}

func FuzzRecent(f *testing.F) {
	f.Add(encodeRanges(recentMagic, nil))
	f.Add(encodeRanges(recentMagic, []pagestream.Range{{Start: 0x1000, Pages: 3}, {Start: 0x9000, Pages: 1}}))
	f.Add(encodeRanges(recentMagic, []pagestream.Range{{Start: 0x1001, Pages: 0}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		runs, err := decodeRanges(recentMagic, MaxRecent, b)
		if err != nil {
			if !errors.Is(err, ErrIndex) {
				t.Fatalf("the error is of no kind: %v", err)
			}
			return
		}
		for _, r := range runs {
			if r.Valid() != nil {
				t.Fatalf("run %v cannot be", r)
			}
		}
		if string(encodeRanges(recentMagic, runs)) != string(b) {
			t.Fatal("what was read is not what was written")
		}
	})
}
