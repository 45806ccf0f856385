package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	live, cold, big := ms(median(b.live)), ms(median(b.cold)), ms(median(b.bigLive))
	lost := float64(1)
	if b.survived {
		lost = 0
	}
	r := report{Figures: []figure{
		{Name: "downtime, 1 GiB under load, live", Value: live, Unit: "ms", Limit: 300},
		{Name: "live downtime / cold downtime", Value: live / cold, Limit: 1.0 / 6},
		{Name: "downtime of 4 GiB / of 1 GiB", Value: big / live, Limit: 2.5},
		{Name: "longest stall of a 1 ms ticker in the rounds", Value: ms(slices.Max(b.stalls)), Unit: "ms", Limit: 50},
		{Name: "first copy, incompressible, over TLS", Value: median(b.copyRates) / 1e9, Unit: "GB/s", Limit: 0.7, AtLeast: true},
		{Name: "growth of the source's shim", Value: float64(b.agentGrowth) / (1 << 20), Unit: "MiB", Limit: 64},
		{Name: "pods lost with the source node after the commit", Value: lost, Limit: 0},
		{Name: "lost writes and wrong values", Value: float64(b.lost + b.wrong), Limit: 0},
	}}
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
