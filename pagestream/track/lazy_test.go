package track

import (
	"math/rand/v2"
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream/pagemap"
)

func TestLazyIsWhatCRIUCallsLazy(t *testing.T) {
	anon := pagemap.VMA{Start: page, End: 2 * page, Perms: pagemap.Read | pagemap.Write}
	for _, c := range []struct {
		name string
		with func(v *pagemap.VMA)
		want bool
	}{
		{"anonymous", func(v *pagemap.VMA) {}, true},
		{"heap", func(v *pagemap.VMA) { v.Path = "[heap]" }, true},
		{"named", func(v *pagemap.VMA) { v.Path = "[anon:arena]" }, true},
		{"stack", func(v *pagemap.VMA) { v.Path = "[stack]"; v.Flags = pagemap.FlagsKnown | pagemap.FlagGrowsDown }, true},
		{"inaccessible", func(v *pagemap.VMA) { v.Perms = 0 }, true},
		{"read-only", func(v *pagemap.VMA) { v.Perms = pagemap.Read }, true},
		{"shared", func(v *pagemap.VMA) { v.Perms |= pagemap.Shared }, false},
		{"file", func(v *pagemap.VMA) { v.Inode, v.Major, v.Path = 5, 8, "/lib/x" }, false},
		{"/dev/zero", func(v *pagemap.VMA) { v.Inode, v.Minor, v.Path = 5, 6, "/dev/zero" }, false},
		{"huge", func(v *pagemap.VMA) { v.Inode, v.Minor, v.Path = 5, 15, "/anon_hugepage (deleted)" }, false},
		{"locked", func(v *pagemap.VMA) { v.Flags = pagemap.FlagsKnown | pagemap.FlagLocked }, false},
		{"droppable", func(v *pagemap.VMA) { v.Flags = pagemap.FlagsKnown | pagemap.FlagDroppable }, false},
		{"device", func(v *pagemap.VMA) { v.Flags = pagemap.FlagsKnown | pagemap.FlagIO | pagemap.FlagPFNMap }, false},
		{"vdso", func(v *pagemap.VMA) { v.Path = "[vdso]" }, false},
		{"vvar", func(v *pagemap.VMA) { v.Path = "[vvar]" }, false},
		{"vvar_vclock", func(v *pagemap.VMA) { v.Path = "[vvar_vclock]" }, false},
		{"vsyscall", func(v *pagemap.VMA) { v.Path = "[vsyscall]" }, false},
		{"uprobes", func(v *pagemap.VMA) { v.Path = "[uprobes]" }, false},
	} {
		v := anon
		c.with(&v)
		if got := Lazy(v); got != c.want {
			t.Errorf("%s: lazy %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSpansCoverAllLazyAreasAndNoLargeOther(t *testing.T) {
	file := func(start, end uint64) pagemap.VMA {
		return pagemap.VMA{Start: start, End: end, Inode: 1, Path: "/x"}
	}
	anon := func(start, end uint64) pagemap.VMA { return pagemap.VMA{Start: start, End: end} }
	const mib = 1 << 20
	var a areas
	a.set([]pagemap.VMA{
		file(0, mib), anon(mib, 2*mib), anon(2*mib, 3*mib), file(3*mib, 4*mib), anon(9*mib, 10*mib),
		file(10*mib, 20*mib), anon(20*mib, 21*mib), file(21*mib, 22*mib), file(22*mib, 32*mib), anon(40*mib, 41*mib), file(50*mib, 90*mib),
	})
	want := []span{{mib, 10 * mib}, {20 * mib, 21 * mib}, {40 * mib, 41 * mib}}
	if !slices.Equal(a.spans, want) {
		t.Errorf("spans %v, want %v", a.spans, want)
	}
	if b := a.bounds(); b != (span{mib, 41 * mib}) {
		t.Errorf("bounds %v", b)
	}
	a.set(nil)
	if len(a.spans) != 0 || a.bounds() != (span{}) {
		t.Errorf("no areas have spans %v and bounds %v", a.spans, a.bounds())
	}
}

func TestCutCoversTheSpansInPieces(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var vmas []pagemap.VMA
		var at, total uint64
		for range rng.IntN(8) {
			at += uint64(rng.IntN(3)) * page * uint64(1+rng.IntN(1000))
			end := at + page*uint64(1+rng.IntN(100))
			v := pagemap.VMA{Start: at, End: end}
			if rng.IntN(4) == 0 {
				v.Inode = 1
			} else {
				total += end - at
			}
			vmas = append(vmas, v)
			at = end
		}
		var a areas
		a.set(vmas)
		size := page * uint64(1+rng.IntN(120))
		pieces := a.cut(size)
		var joined []span
		for _, p := range pieces {
			if p.end <= p.start {
				t.Fatalf("empty piece %v of %v", p, a.spans)
			}
			if n := len(joined); n > 0 && joined[n-1].end == p.start && !slices.ContainsFunc(a.spans, func(s span) bool { return s.start == p.start }) {
				joined[n-1].end = p.end
			} else {
				joined = append(joined, p)
			}
			var sum uint64
			for _, l := range a.lazy {
				if from, to := max(l.start, p.start), min(l.end, p.end); from < to {
					sum += to - from
				}
			}
			if sum > size {
				t.Fatalf("piece %v holds %d bytes of lazy areas, want at most %d", p, sum, size)
			}
		}
		if !slices.Equal(joined, a.spans) {
			t.Fatalf("pieces %v of size %#x cover %v, want %v", pieces, size, joined, a.spans)
		}
		if max := int(total/size) + len(a.spans); len(pieces) > max {
			t.Fatalf("%d pieces, want at most %d", len(pieces), max)
		}
	}
}
