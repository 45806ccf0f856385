// Package plots draws a benchmark's table as SVG.
package plots

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"godwit.dev/godwit/test/bench/matrix"
)

// How large plots are.
const (
	width  = 22 * vg.Centimeter
	height = 11 * vg.Centimeter
)

// figure is a plot before it is drawn.
type figure struct {
	name, title string // name is its file's, without .svg
	x, y        string
	logX        bool
	lines       []line
	points      bool // marks what was measured
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
		path := filepath.Join(dir, f.name+".svg")
		if err := f.write(path); err != nil {
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
		name: "downtime-by-memory", title: "Downtime of a redis by its memory", x: "memory, MiB", y: "downtime, ms", logX: true, points: true,
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
		name: "dirty-by-round-" + workload, title: "What each round found to copy: " + workload, x: "round", y: "MiB", points: true,
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

// around is how long a redis' client waited around the cutover.
func around(rows []matrix.Row, l matrix.Link) figure {
	f := figure{
		name: "latency-" + l.Name, title: "Waits of a redis' client around the cutover: " + l.Title,
		x: "seconds from the begin of the downtime", y: "time since the answer before, ms",
	}
	for _, r := range rows {
		if r.Workload != matrix.Redis || r.Link != l.Name {
			continue
		}
		var points plotter.XYs
		for _, s := range r.Samples {
			points = append(points, plotter.XY{X: s.AtMS / 1000, Y: s.WaitedMS})
		}
		f.add(r.Mode, points)
	}
	return f
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

// draw makes the plot.
func (f figure) draw() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = f.title, f.x, f.y
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	if f.logX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, doublings{}
	}
	p.Add(plotter.NewGrid())
	p.Legend.Top, p.Legend.Left = true, false
	for i, l := range f.lines {
		drawn, marks, err := plotter.NewLinePoints(l.points)
		if err != nil {
			return nil, fmt.Errorf("line %s: %w", l.name, err)
		}
		drawn.Color, drawn.Width, drawn.Dashes = plotutil.Color(i), vg.Points(1.2), plotutil.Dashes(i/len(plotutil.DefaultColors))
		marks.Color, marks.Shape, marks.Radius = plotutil.Color(i), draw.CircleGlyph{}, vg.Points(2)
		p.Add(drawn)
		if f.points {
			p.Add(marks)
		}
		p.Legend.Add(l.name, drawn)
	}
	return p, nil
}

// write draws into a file.
func (f figure) write(path string) (err error) {
	p, err := f.draw()
	if err != nil {
		return err
	}
	canvas := vgsvg.New(width, height)
	// The legend stands beside what is drawn, not on it.
	all := draw.New(canvas)
	legend := p.Legend
	p.Legend = plot.NewLegend()
	box := legend.Rectangle(all)
	p.Draw(draw.Crop(all, 0, -box.Size().X-vg.Centimeter/2, 0, 0))
	legend.Draw(all)
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(out)
	if closed := out.Close(); err == nil {
		err = closed
	}
	return err
}

// doublings are an axis' ticks at powers of two.
type doublings struct{}

// Ticks implements plot.Ticker.
func (doublings) Ticks(least, most float64) []plot.Tick {
	var ticks []plot.Tick
	for v := 1.0; v <= most; v *= 2 {
		if v >= least {
			ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprint(v)})
		}
	}
	return ticks
}
