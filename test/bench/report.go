package main

import (
	"fmt"
	"slices"

	"godwit.dev/godwit/test/bench/traces"
	"godwit.dev/godwit/test/figure"
)

type report struct {
	Figures []figure.Figure `json:"figures"`
	// The medians come from these, milliseconds.
	Live []float64 `json:"live_downtime_ms"`
	Cold []float64 `json:"cold_downtime_ms"`
	// What a destination took at most while a pod came in, as a multiple of what it takes there in the end.
	Peaks []float64 `json:"destination_peaks,omitempty"`
	// By how much memory redis was filled with.
	ByMemory []byMemory `json:"by_memory,omitempty"`
	// The rules that end the rounds, by replay of traces.
	Rules    []traces.Comparison `json:"rules,omitempty"`
	Hopeless []traces.Comparison `json:"hopeless,omitempty"`
}

// report judges what was measured.
func (b *bench) report() report {
	one := b.of(smallMemory)
	return report{
		Figures: slices.Concat(b.oneMoved(), b.copied(), b.manyMoved(), b.heldBack(), b.sentLess(), b.ofTable(), b.ofRules(), []figure.Figure{
			{Name: "lost writes and wrong values", Value: float64(b.lost + b.wrong), Limit: 0},
		}),
		Live: each(one.live, gapMS), Cold: each(one.cold, gapMS), Peaks: b.peaks,
		ByMemory: rowsOf(b.byMemory), Rules: b.compared, Hopeless: b.hopeless,
	}
}

// figures are those of what has been measured.
type figures []figure.Figure

// add adds figures, if they have been measured.
func (all *figures) add(measured bool, some ...figure.Figure) {
	if measured {
		*all = append(*all, some...)
	}
}

// oneMoved is about a pod under load.
func (b *bench) oneMoved() (all figures) {
	one := b.of(smallMemory)
	live, cold := medianOf(one.live, gapMS), medianOf(one.cold, gapMS)
	small := b.frozen(smallMemory)
	all.add(live > 0,
		figure.Figure{Name: "downtime, 1 GiB under load, live, as the client sees it", Value: live, Unit: "ms", Limit: 150},
		figure.Figure{Name: "frozen, the same", Value: small, Unit: "ms", Limit: 100})
	all.add(cold > 0, figure.Figure{Name: "live downtime / cold downtime", Value: live / cold, Limit: 1.0 / 20})
	for _, memory := range []int64{bigMemory, mostMemory} {
		frozen := b.frozen(memory)
		all.add(small > 0 && frozen > 0, figure.Figure{Name: fmt.Sprintf("frozen, %d GiB / 1 GiB", memory>>30), Value: frozen / small, Limit: 1.3})
	}
	if g := b.gigabit; g != nil {
		live, cold := medianOf(g.live, gapMS), medianOf(g.cold, gapMS)
		all.add(live > 0,
			figure.Figure{Name: "downtime, 1 GiB under load over 1 Gbit/s, live", Value: live, Unit: "ms", Limit: 400},
			figure.Figure{Name: "live downtime / cold downtime over 1 Gbit/s", Value: live / cold, Limit: 1.0 / 25})
	}
	all.add(live > 0,
		figure.Figure{Name: "writes in the second after such a move / in one before it", Value: medianOf(one.live, afterOverBefore), Limit: 0.7, AtLeast: true},
		figure.Figure{Name: "the longest wait for one of them", Value: medianOf(one.live, worstMS), Unit: "ms", Limit: 50})
	if c := b.containers; c != nil {
		all.add(true, figure.Figure{Name: "frozen, a pod of five containers of 64 MiB / of one", Value: c.share(), Limit: containersShare})
	}
	if t := b.ticked; t != nil && len(t.live) > 0 {
		all.add(true, figure.Figure{Name: "longest stall of a 1 ms ticker in the rounds", Value: slices.Max(each(t.live, stallMS)), Unit: "ms", Limit: 50})
	}
	return all
}

// copied is about the copy of memory, what it takes, and what is left of it without its source.
func (b *bench) copied() (all figures) {
	if len(b.copyRates) > 0 {
		all.add(true,
			figure.Figure{Name: "first copy, incompressible, over TLS", Value: median(b.copyRates) / 1e9, Unit: "GB/s", Limit: 0.7, AtLeast: true},
			figure.Figure{Name: "growth of the source's shim", Value: float64(b.agentGrowth) / (1 << 20), Unit: "MiB", Limit: 64})
	}
	if len(b.peaks) > 0 {
		all.add(true, figure.Figure{Name: "peak of store and pod at the destination / pod, 1 GiB under load, worst", Value: slices.Max(b.peaks), Limit: peakShare})
	}
	if b.survived != nil {
		lost := 1.0
		if *b.survived {
			lost = 0
		}
		all.add(true, figure.Figure{Name: "pods lost with the source node after the commit", Value: lost, Limit: 0})
	}
	return all
}

// manyMoved is about pods that move at once.
func (b *bench) manyMoved() (all figures) {
	for _, c := range b.crowds {
		all.add(true, figure.Figure{Name: "worst downtime of eleven pods at once over 1 Gbit/s / of one alone, " + c.name,
			Value: c.share(), Limit: crowdShare, Unpromised: !c.promised})
	}
	return all
}

// heldBack is about pods that write faster than the link copies, and about moves that are broken off.
func (b *bench) heldBack() (all figures) {
	if t := b.throttled; t != nil {
		all.add(true,
			figure.Figure{Name: "a throttled pod has its quota back after an abort", Value: ms(t.back), Unit: "ms", Limit: 100},
			figure.Figure{Name: "its speed in the second after that / before", Value: t.speed, Limit: 0.9, AtLeast: true},
			figure.Figure{Name: "downtime, 256 MiB rewritten at 50 MiB/s, throttled, 200 Mbit/s", Value: ms(t.downtime), Unit: "ms", Limit: 1000})
	}
	if h := b.hybrid; h != nil {
		all.add(true,
			figure.Figure{Name: "downtime, 2 GiB rewritten at 50 MB/s, hybrid, 200 Mbit/s", Value: ms(h.downtime), Unit: "ms", Limit: 1000},
			figure.Figure{Name: "its client's longest wait, from the freeze on", Value: ms(h.waited), Unit: "ms", Limit: 2000},
			figure.Figure{Name: "bytes sent / memory, the same", Value: h.bytes, Limit: 1.6})
	}
	if a := b.broken; a != nil {
		all.add(true,
			figure.Figure{Name: "longest gap in 200 migrations broken off at random stages", Value: ms(a.worst.Gap.Length()), Unit: "ms", Limit: 150},
			figure.Figure{Name: "kinds of things that they left behind", Value: float64(len(a.left)), Limit: 0})
	}
	return all
}

// sentLess is about what need not be sent.
func (b *bench) sentLess() (all figures) {
	if u := b.unchanged; u != nil {
		all.add(true,
			figure.Figure{Name: "bytes sent / memory, 64 MiB rewritten with the same values, 200 Mbit/s", Value: u.same, Unpromised: true},
			figure.Figure{Name: "bytes sent / memory, the same with other values", Value: u.others, Unpromised: true})
	}
	for _, d := range b.deltas {
		ratio := func(what string, value float64) figure.Figure {
			return figure.Figure{Name: what + " with deltas / without, " + d.name, Value: value, Unpromised: true}
		}
		all.add(true,
			ratio("bytes sent", d.with.bytes/d.whole.bytes),
			ratio("downtime", float64(d.with.downtime)/float64(d.whole.downtime)),
			ratio("total", float64(d.with.total)/float64(d.whole.total)))
	}
	for _, c := range b.steering {
		all.add(true, figure.Figure{Name: "speed of the chosen codec / of the best, " + c.Name(), Value: c.Share(), Limit: steeredShare, AtLeast: true,
			Unpromised: c.Busy})
	}
	if c := b.copies; c != nil {
		all.add(true, figure.Figure{Name: "processor's time of rounds that may send deltas / may not, unshaped", Value: c.Cost, Limit: copiesCost})
	}
	return all
}

// ofTable is about the comparisons with others.
func (b *bench) ofTable() (all figures) {
	if b.table != nil {
		godwit, byHand := b.table.Failures()
		all.add(true,
			figure.Figure{Name: "cells of the table that failed", Value: float64(godwit), Limit: 0},
			figure.Figure{Name: "the same by hand", Value: float64(byHand), Unpromised: true})
	}
	all.add(b.absorbed > 0, figure.Figure{Name: "a dump to our page server / to criu's own, speed", Value: b.absorbed, Limit: 0.8, AtLeast: true})
	return all
}

// ofRules is about the rules that end the rounds.
func (b *bench) ofRules() (all figures) {
	if len(b.compared) > 0 {
		v, hopeless := traces.Judge(b.compared), traces.Judge(b.hopeless)
		all.add(true,
			figure.Figure{Name: "replayed downtime, default rule / S0, worst trace and link", Value: v.Downtime, Limit: traces.DowntimeShare},
			figure.Figure{Name: "bytes sent, the same", Value: v.Bytes, Limit: traces.BytesShare},
			figure.Figure{Name: "share of the traces with 30 % less downtime over a link", Value: float64(v.Lower) / float64(v.Traces), Limit: 0.5, AtLeast: true},
			figure.Figure{Name: "memory without a chance is sent, times", Value: hopeless.Copies, Limit: traces.HopelessCopies},
			figure.Figure{Name: "its downtime, default rule / S0", Value: hopeless.Downtime, Limit: traces.DowntimeShare})
	}
	return all
}
