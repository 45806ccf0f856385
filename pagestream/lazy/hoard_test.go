package lazy

import (
	"math/rand/v2"
	"testing"
)

// Whatever becomes spare is given back once, by whole huge pages unless too much would be held twice, and all of it in the end.
func TestWhatIsSpareIsGivenBackOnceAndByHugePages(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		units := 1 + r.Uint64N(40*folioUnits)
		given := make([]bool, units)
		for u := range given {
			given[u] = r.IntN(10) == 0
		}
		h := newHoard(units, func(u uint64) bool { return given[u] })
		spare := make([]bool, units)
		copy(spare, given)
		var order []uint64
		for u := range units {
			if !given[u] {
				order = append(order, u)
			}
		}
		r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		kept, parts := uint64(0), false
		for len(order) > 0 {
			n := min(1+r.IntN(9), len(order))
			for _, u := range order[:n] {
				h.add([]pageRun{{u, 1}})
				spare[u] = true
				kept++
			}
			order = order[n:]
			over := kept > h.most
			for _, run := range h.ripe() {
				for u := run.first; u < run.first+run.n; u++ {
					if u >= units || given[u] || !spare[u] {
						t.Fatalf("seed %d: unit %d of %d is given back: before %v, spare %v", seed, u, units, given[u], spare[u])
					}
					given[u] = true
					kept--
				}
				folio := run.first / folioUnits
				for u := folio * folioUnits; u < min((folio+1)*folioUnits, units); u++ {
					if !spare[u] {
						parts = true
						if !over {
							t.Fatalf("seed %d: a part of huge page %d is given back with %d units kept of %d", seed, folio, kept, h.most)
						}
					}
				}
			}
			if kept != h.kept || kept > h.most {
				t.Fatalf("seed %d: %d units are kept, it counts %d, at most %d", seed, kept, h.kept, h.most)
			}
		}
		if units > 20*folioUnits && !parts {
			t.Errorf("seed %d: no huge page was given back in parts: this tests nothing", seed)
		}
		for u := range given {
			if !given[u] {
				t.Fatalf("seed %d: unit %d is never given back", seed, u)
			}
		}
	}
}

// Runs of units that lie in two huge pages come out as parts of each.
func TestARunOverTwoHugePagesIsGivenBackAsBoth(t *testing.T) {
	h := newHoard(2*folioUnits, func(uint64) bool { return false })
	h.add([]pageRun{{0, 2 * folioUnits}})
	var n uint64
	for _, run := range h.ripe() {
		if run.n != folioUnits || run.first%folioUnits != 0 {
			t.Fatalf("units %d to %d are given back together", run.first, run.first+run.n)
		}
		n += run.n
	}
	if n != 2*folioUnits {
		t.Fatalf("%d units are given back, not %d", n, 2*folioUnits)
	}
}
