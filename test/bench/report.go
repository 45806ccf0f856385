package main

import (
	"fmt"
	"slices"
	"time"

	"godwit.dev/godwit/test/bench/traces"
	"godwit.dev/godwit/test/figure"
	"godwit.dev/godwit/test/trial"
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
	Rules []traces.Comparison `json:"rules,omitempty"`
}

// report judges what was measured.
func (b *bench) report() report {
	var r report
	promise := func(measured bool, f figure.Figure) {
		if measured {
			r.Figures = append(r.Figures, f)
		}
	}
	live, cold := medianMS(b.live), medianMS(b.cold)
	promise(live > 0, figure.Figure{Name: "downtime, 1 GiB under load, live, as the client sees it", Value: live, Unit: "ms", Limit: 150})
	small := b.frozen(smallMemory)
	promise(live > 0, figure.Figure{Name: "frozen, the same", Value: small, Unit: "ms", Limit: 100})
	promise(cold > 0, figure.Figure{Name: "live downtime / cold downtime", Value: live / cold, Limit: 1.0 / 8})
	for _, memory := range []int64{bigMemory, mostMemory} {
		promise(small > 0 && b.frozen(memory) > 0, figure.Figure{Name: fmt.Sprintf("frozen, %d GiB / 1 GiB", memory>>30), Value: b.frozen(memory) / small, Limit: 1.3})
	}
	if g := b.gigabit; g != nil {
		promise(true, figure.Figure{Name: "downtime, 1 GiB under load over 1 Gbit/s, live", Value: medianOf(g.live, gapMS), Unit: "ms", Limit: 400})
		promise(true, figure.Figure{Name: "live downtime / cold downtime over 1 Gbit/s", Value: medianOf(g.live, gapMS) / medianOf(g.cold, gapMS), Limit: 1.0 / 25})
	}
	if len(b.aftermath) > 0 {
		promise(true, figure.Figure{Name: "writes in the second after such a move / in one before it", Value: medianOf(b.aftermath, afterOverBefore),
			Limit: 0.7, AtLeast: true})
		promise(true, figure.Figure{Name: "the longest wait for one of them", Value: medianOf(b.aftermath, func(r *trial.Result) float64 { return ms(r.Worst.Length()) }),
			Unit: "ms", Limit: 50})
	}
	if c := b.containers; c != nil {
		promise(true, figure.Figure{Name: "frozen, a pod of five containers of 64 MiB / of one", Value: c.share(), Limit: containersShare})
	}
	if len(b.stalls) > 0 {
		promise(true, figure.Figure{Name: "longest stall of a 1 ms ticker in the rounds", Value: ms(slices.Max(b.stalls)), Unit: "ms", Limit: 50})
	}
	if len(b.copyRates) > 0 {
		promise(true, figure.Figure{Name: "first copy, incompressible, over TLS", Value: median(b.copyRates) / 1e9, Unit: "GB/s", Limit: 0.7, AtLeast: true})
		promise(true, figure.Figure{Name: "growth of the source's shim", Value: float64(b.agentGrowth) / (1 << 20), Unit: "MiB", Limit: 64})
	}
	if len(b.peaks) > 0 {
		promise(true, figure.Figure{Name: "peak of store and pod at the destination / pod, 1 GiB under load, worst", Value: slices.Max(b.peaks), Limit: peakShare})
	}
	if b.survived != nil {
		lost := 1.0
		if *b.survived {
			lost = 0
		}
		promise(true, figure.Figure{Name: "pods lost with the source node after the commit", Value: lost, Limit: 0})
	}
	for _, c := range b.crowds {
		promise(true, figure.Figure{Name: "worst downtime of eleven pods at once over 1 Gbit/s / of one alone, " + c.name,
			Value: c.share(), Limit: crowdShare, Unpromised: !c.promised})
	}
	if t := b.throttled; t != nil {
		promise(true, figure.Figure{Name: "a throttled pod has its quota back after an abort", Value: ms(t.back), Unit: "ms", Limit: 100})
		promise(true, figure.Figure{Name: "its speed in the second after that / before", Value: t.speed, Limit: 0.9, AtLeast: true})
		promise(true, figure.Figure{Name: "downtime, 256 MiB rewritten at 50 MiB/s, throttled, 200 Mbit/s", Value: ms(t.downtime), Unit: "ms", Limit: 1000})
	}
	if h := b.hybrid; h != nil {
		promise(true, figure.Figure{Name: "downtime, 2 GiB rewritten at 50 MB/s, hybrid, 200 Mbit/s", Value: ms(h.downtime), Unit: "ms", Limit: 1000})
		promise(true, figure.Figure{Name: "its client's longest wait, from the freeze on", Value: ms(h.waited), Unit: "ms", Limit: 2000})
		promise(true, figure.Figure{Name: "bytes sent / memory, the same", Value: h.bytes, Limit: 1.6})
	}
	if a := b.broken; a != nil {
		promise(true, figure.Figure{Name: "longest gap in 200 migrations broken off at random stages", Value: ms(a.worst.Gap.Length()), Unit: "ms", Limit: 150})
		promise(true, figure.Figure{Name: "kinds of things that they left behind", Value: float64(len(a.left)), Limit: 0})
	}
	if u := b.unchanged; u != nil {
		promise(true, figure.Figure{Name: "bytes sent / memory, 64 MiB rewritten with the same values, 200 Mbit/s", Value: u.same, Unpromised: true})
		promise(true, figure.Figure{Name: "bytes sent / memory, the same with other values", Value: u.others, Unpromised: true})
	}
	for _, d := range b.deltas {
		for _, f := range []figure.Figure{
			{Name: "bytes sent", Value: d.with.bytes / d.whole.bytes},
			{Name: "downtime", Value: float64(d.with.downtime) / float64(d.whole.downtime)},
			{Name: "total", Value: float64(d.with.total) / float64(d.whole.total)},
		} {
			f.Name, f.Unpromised = f.Name+" with deltas / without, "+d.name, true
			promise(true, f)
		}
	}
	for _, c := range b.steering {
		promise(true, figure.Figure{Name: "speed of the chosen codec / of the best, " + c.Name(), Value: c.Share(), Limit: steeredShare, AtLeast: true,
			Unpromised: c.Busy})
	}
	if c := b.copies; c != nil {
		promise(true, figure.Figure{Name: "processor's time of rounds that may send deltas / may not, unshaped", Value: c.Cost, Limit: copiesCost})
	}
	if b.table != nil {
		godwit, byHand := b.table.Failures()
		promise(true, figure.Figure{Name: "cells of the table that failed", Value: float64(godwit), Limit: 0})
		promise(true, figure.Figure{Name: "the same by hand", Value: float64(byHand), Unpromised: true})
	}
	promise(b.absorbed > 0, figure.Figure{Name: "a dump to our page server / to criu's own, speed", Value: b.absorbed, Limit: 0.8, AtLeast: true})
	if len(b.compared) > 0 {
		r.Rules = b.compared
		v := traces.Judge(b.compared)
		promise(true, figure.Figure{Name: "replayed downtime, default rule / S0, worst trace and link", Value: v.Downtime, Limit: traces.DowntimeShare})
		promise(true, figure.Figure{Name: "bytes sent, the same", Value: v.Bytes, Limit: traces.BytesShare})
		promise(true, figure.Figure{Name: "share of the traces with 30 % less downtime over a link", Value: float64(v.Lower) / float64(v.Traces), Limit: 0.5, AtLeast: true})
	}
	promise(true, figure.Figure{Name: "lost writes and wrong values", Value: float64(b.lost + b.wrong), Limit: 0})
	r.ByMemory, r.Peaks = rowsOf(b.byMemory), b.peaks
	for _, d := range b.live {
		r.Live = append(r.Live, ms(d))
	}
	for _, d := range b.cold {
		r.Cold = append(r.Cold, ms(d))
	}
	return r
}

// afterOverBefore is what the client got done after a move, as a share of before.
func afterOverBefore(r *trial.Result) float64 { return float64(r.After) / float64(max(r.Before, 1)) }

// medianMS is the median in milliseconds, 0 of none.
func medianMS(d []time.Duration) float64 {
	if len(d) == 0 {
		return 0
	}
	return ms(median(d))
}
