package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// figure is one thing that was promised.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Limit is what Value may be at most, or at least if AtLeast.
	Limit   float64 `json:"limit"`
	AtLeast bool    `json:"at_least,omitempty"`
}

// kept says whether the promise is kept.
func (f figure) kept() bool {
	if f.AtLeast {
		return f.Value >= f.Limit
	}
	return f.Value <= f.Limit
}

type report struct {
	Figures []figure `json:"figures"`
	// The medians come from these, milliseconds.
	Live []float64 `json:"live_downtime_ms"`
	Cold []float64 `json:"cold_downtime_ms"`
	Big  []float64 `json:"live_4gib_downtime_ms"`
}

// report judges what was measured.
func (b *bench) report() report {
	var r report
	promise := func(measured bool, f figure) {
		if measured {
			r.Figures = append(r.Figures, f)
		}
	}
	live, cold, big := medianMS(b.live), medianMS(b.cold), medianMS(b.bigLive)
	promise(live > 0, figure{Name: "downtime, 1 GiB under load, live", Value: live, Unit: "ms", Limit: 300})
	promise(cold > 0, figure{Name: "live downtime / cold downtime", Value: live / cold, Limit: 1.0 / 6})
	promise(live > 0 && big > 0, figure{Name: "downtime of 4 GiB / of 1 GiB", Value: big / live, Limit: 2.5})
	if len(b.stalls) > 0 {
		promise(true, figure{Name: "longest stall of a 1 ms ticker in the rounds", Value: ms(slices.Max(b.stalls)), Unit: "ms", Limit: 50})
	}
	if len(b.copyRates) > 0 {
		promise(true, figure{Name: "first copy, incompressible, over TLS", Value: median(b.copyRates) / 1e9, Unit: "GB/s", Limit: 0.7, AtLeast: true})
		promise(true, figure{Name: "growth of the source's shim", Value: float64(b.agentGrowth) / (1 << 20), Unit: "MiB", Limit: 64})
	}
	if b.survived != nil {
		lost := 1.0
		if *b.survived {
			lost = 0
		}
		promise(true, figure{Name: "pods lost with the source node after the commit", Value: lost, Limit: 0})
	}
	promise(b.absorbed > 0, figure{Name: "a dump to our page server / to criu's own, speed", Value: b.absorbed, Limit: 0.8, AtLeast: true})
	promise(true, figure{Name: "lost writes and wrong values", Value: float64(b.lost + b.wrong), Limit: 0})
	for _, d := range b.live {
		r.Live = append(r.Live, ms(d))
	}
	for _, d := range b.cold {
		r.Cold = append(r.Cold, ms(d))
	}
	for _, d := range b.bigLive {
		r.Big = append(r.Big, ms(d))
	}
	return r
}

// medianMS is the median in milliseconds, 0 of none.
func medianMS(d []time.Duration) float64 {
	if len(d) == 0 {
		return 0
	}
	return ms(median(d))
}

func (r report) missed() bool {
	return slices.ContainsFunc(r.Figures, func(f figure) bool { return !f.kept() })
}

func (r report) print() {
	fmt.Printf("\n%-50s %12s %16s\n", "", "measured", "promised")
	for _, f := range r.Figures {
		bound, verdict := "at most", ""
		if f.AtLeast {
			bound = "at least"
		}
		if !f.kept() {
			verdict = "  MISSED"
		}
		fmt.Printf("%-50s %12s %16s%s\n", f.Name, fmt.Sprintf("%.3g %s", f.Value, f.Unit), fmt.Sprintf("%s %.3g", bound, f.Limit), verdict)
	}
}

func (r report) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
