// Package plots draws a benchmark's table as SVG.
package plots

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot/plotter"

	"godwit.dev/godwit/test/bench/matrix"
)

// figure is a plot before it is drawn.
type figure struct {
	name, title string // name is its file's, without .svg
	x, y        string
	lines       []line
	draw        func(figure) ([]byte, error)
}

// line is one series.
type line struct {
	name   string
	points plotter.XYs
}

// Write draws what the table has figures for, into files in a directory that is made, and says which. Their paths are relative to
// the directory's parent.
func Write(dir string, t *matrix.Table) ([]matrix.Drawing, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("plots: %w", err)
	}
	var drawn []matrix.Drawing
	for _, f := range figures(t) {
		if len(f.lines) == 0 {
			continue
		}
		svg, err := f.draw(f)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", f.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.name+".svg"), svg, 0o644); err != nil {
			return nil, fmt.Errorf("plot %s: %w", f.name, err)
		}
		drawn = append(drawn, matrix.Drawing{File: filepath.Join(filepath.Base(dir), f.name+".svg"), Title: f.title})
	}
	return drawn, nil
}

// figures are all plots of a table; those without lines have nothing to show.
func figures(t *matrix.Table) []figure {
	all := []figure{bySize(t.Sizes)}
	for _, w := range matrix.Workloads() {
		all = append(all, byRound(t.Rows, w.Name))
	}
	for _, l := range matrix.Links() {
		all = append(all, around(t.Rows, l))
	}
	return all
}

// bySize is the downtime by memory.
func bySize(sizes []matrix.Size) figure {
	f := figure{
		name: "downtime-by-memory", title: "Downtime of a redis under 5,000 writes a second, by its memory",
		x: "memory, MiB", y: "downtime, ms", draw: drawBySize,
	}
	for _, m := range matrix.Modes() {
		var points plotter.XYs
		for _, s := range sizes {
			if s.Mode == m.Name && s.Failed == "" {
				points = append(points, plotter.XY{X: float64(s.MemoryBytes) / (1 << 20), Y: s.DowntimeMS})
			}
		}
		f.add(m.Name, points)
	}
	return f
}

// roundModes are the ways of which the rounds are shown. Hybrid's are those of live.
var roundModes = []string{"live-s0", "live"}

// byRound is what the rounds found to copy.
func byRound(rows []matrix.Row, workload string) figure {
	f := figure{
		name: "dirty-by-round-" + workload, title: "What each round found to copy, " + workload,
		x: "round", y: "MiB", draw: drawLines,
	}
	for _, r := range rows {
		if r.Workload != workload || !slices.Contains(roundModes, r.Mode) {
			continue
		}
		var points plotter.XYs
		for i, round := range r.Rounds {
			points = append(points, plotter.XY{X: float64(i), Y: float64(round.DirtyBytes) / (1 << 20)})
		}
		f.add(r.Mode+", "+r.Link, points)
	}
	return f
}

// around is how long a redis' client waited around the cutover, in seconds from the begin of the downtime.
func around(rows []matrix.Row, l matrix.Link) figure {
	f := figure{
		name: "latency-" + l.Name, title: "How long a redis' client waits around the cutover, " + l.Title,
		x: "seconds from the begin of the downtime", y: "ms", draw: drawStacked,
	}
	for _, r := range rows {
		if r.Workload != matrix.Redis || r.Link != l.Name {
			continue
		}
		var points plotter.XYs
		for _, s := range r.Samples {
			// Who asked at the begin of a wait waited for all of it.
			begin, end := (s.AtMS-s.WaitedMS)/1000, s.AtMS/1000
			if k := len(points); k > 0 {
				begin = max(begin, points[k-1].X)
			}
			points = append(points, plotter.XY{X: begin, Y: s.WaitedMS}, plotter.XY{X: end, Y: s.WaitedMS})
		}
		f.add(r.Mode, within(points))
	}
	return f
}

// What is shown of the time around a cutover, seconds. A longer downtime reaches the edge.
const from, to = -2.0, 3.0

// within cuts points off at the edges.
func within(points plotter.XYs) plotter.XYs {
	var cut plotter.XYs
	for _, p := range points {
		p.X = min(max(p.X, from), to)
		cut = append(cut, p)
	}
	return cut
}

// least is what is shown of less: the axes are logarithmic.
const least = 0.01

// add adds a line, unless it has no points.
func (f *figure) add(name string, points plotter.XYs) {
	if len(points) == 0 {
		return
	}
	for i := range points {
		points[i].Y = max(points[i].Y, least)
	}
	f.lines = append(f.lines, line{name, points})
}
