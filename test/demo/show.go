package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/trial"
)

// follow prints each round as it ends.
func follow() func(move.Event) {
	shown := 0
	return func(e move.Event) {
		if e.Progress == nil {
			return
		}
		for ; shown < len(e.Progress.Rounds); shown++ {
			r := e.Progress.Rounds[shown]
			fmt.Printf("  round %-3d %10s dirty %10.1f ms\n", r.Number, size(int64(r.DirtyPages)*4096), r.DurationMS)
		}
	}
}

// timeline prints what happened when, as seen from the last write that was
// acknowledged before the gap.
func timeline(r *trial.Result) {
	type moment struct {
		at   time.Time
		text string
	}
	moments := []moment{
		{r.Gap.Last, "write       the last one acknowledged before the gap"},
		{r.Gap.First, "write       the first one acknowledged after it"},
	}
	for _, e := range r.Events {
		moments = append(moments, moment{e.Time, fmt.Sprintf("%-11s %s", e.Kind, e.Message)})
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return a.at.Compare(b.at) })
	fmt.Println("  timeline:")
	for _, m := range moments {
		fmt.Printf("  %+10.1f ms  %s\n", ms(m.at.Sub(r.Gap.Last)), m.text)
	}
}

func table(live, cold *trial.Result) {
	fmt.Printf("\n%-34s %14s %14s\n", "", "live", "cold")
	row := func(name, format string, value func(*trial.Result) any) {
		fmt.Printf("%-34s %14s %14s\n", name, fmt.Sprintf(format, value(live)), fmt.Sprintf(format, value(cold)))
	}
	row("engine", "%v", func(r *trial.Result) any { return r.Engine })
	row("memory", "%v", func(r *trial.Result) any { return size(int64(max(r.MemoryBytes, r.FinalBytes))) })
	row("rounds", "%v", func(r *trial.Result) any { return len(r.Rounds) })
	row("sent", "%v", func(r *trial.Result) any { return size(int64(r.BytesSent)) })
	row("total", "%.0f ms", func(r *trial.Result) any { return r.TotalMS })
	row("downtime, as the client sees it", "%.0f ms", func(r *trial.Result) any { return ms(r.Gap.Length()) })
	row("longest stall during the rounds", "%.0f ms", func(r *trial.Result) any { return ms(r.LongestStall()) })
	row("acknowledged writes", "%v", func(r *trial.Result) any { return r.Acked })
	row("lost writes", "%v", func(r *trial.Result) any { return r.Lost })
	row("wrong values", "%v", func(r *trial.Result) any { return r.Wrong })
	row("lines of the file, in sequence", "%v", func(r *trial.Result) any { return r.Lines })
	fmt.Printf("\nThe live move stood still for 1/%.1f of the cold one's time.\n", ms(cold.Gap.Length())/ms(live.Gap.Length()))
}

// figures is the demo's result for programs.
type figures struct {
	Engine       string       `json:"engine"`
	Memory       uint64       `json:"memory_bytes"`
	Rounds       []move.Round `json:"rounds"`
	Sent         uint64       `json:"bytes_sent"`
	Total        float64      `json:"total_ms"`
	Downtime     float64      `json:"downtime_ms"`
	ColdDowntime float64      `json:"cold_downtime_ms"`
	Acked        uint64       `json:"acked_writes"`
	Lost         uint64       `json:"lost_writes"`
	Wrong        uint64       `json:"wrong_values"`
	Lines        uint64       `json:"file_lines"`
}

func write(path string, live, cold *trial.Result) error {
	f := figures{
		Engine: live.Engine, Memory: live.MemoryBytes, Rounds: live.Rounds, Sent: live.BytesSent,
		Total: live.TotalMS, Downtime: ms(live.Gap.Length()), ColdDowntime: ms(cold.Gap.Length()),
		Acked: cold.Acked, Lost: live.Lost + cold.Lost, Wrong: live.Wrong + cold.Wrong, Lines: cold.Lines,
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// size prints bytes with a binary unit.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
