package plots

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// How large plots are.
const (
	width  = 20 * vg.Centimeter
	height = 10 * vg.Centimeter
	// small is the height of one of several that are stacked, and below what is left for the last one's axis.
	small = 2.4 * vg.Centimeter
	below = 1 * vg.Centimeter
	// named is the width of what names the lines, beside the plot.
	named = 5 * vg.Centimeter
)

// sans is the one typeface of all plots.
var sans = font.Font{Typeface: "Liberation", Variant: "Sans"}

// newPlot is one without a title: that is in the text around it.
func newPlot() *plot.Plot {
	was := plot.DefaultFont
	plot.DefaultFont = sans
	defer func() { plot.DefaultFont = was }()
	p := plot.New()
	p.Add(plotter.NewGrid())
	return p
}

// drawLines draws all lines into one plot, their names beside it.
func drawLines(f figure) ([]byte, error) {
	return f.drawn(plot.ConstantTicks(integers(f.lines)), plot.LinearScale{})
}

// drawBySize is drawLines with sizes that double from one tick to the next.
func drawBySize(f figure) ([]byte, error) { return f.drawn(doublings{}, plot.LogScale{}) }

func (f figure) drawn(ticks plot.Ticker, scale plot.Normalizer) ([]byte, error) {
	p := newPlot()
	p.X.Label.Text, p.Y.Label.Text = f.x, f.y
	p.X.Tick.Marker, p.X.Scale = ticks, scale
	p.Y.Tick.Marker, p.Y.Scale = decades{}, plot.LogScale{}
	legend := plot.NewLegend()
	legend.Top, legend.Left = true, true
	legend.TextStyle.Font = font.From(sans, 10)
	for i, l := range f.lines {
		drawn, marks, err := plotter.NewLinePoints(l.points)
		if err != nil {
			return nil, fmt.Errorf("line %s: %w", l.name, err)
		}
		drawn.Color, drawn.Width = plotutil.Color(i), vg.Points(1.2)
		marks.Color, marks.Shape, marks.Radius = plotutil.Color(i), draw.CircleGlyph{}, vg.Points(2)
		p.Add(drawn, marks)
		legend.Add(l.name, drawn, marks)
	}
	p.Y.Min, p.Y.Max = decade(p.Y.Min, math.Floor), decade(p.Y.Max, math.Ceil)
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	p.Draw(draw.Crop(all, 0, -named, 0, 0))
	legend.Draw(draw.Crop(all, width-named+vg.Centimeter/2, 0, 0, 0))
	return svg(canvas)
}

// drawStacked draws a plot for each line, one above the other, all with the same axes.
func drawStacked(f figure) ([]byte, error) {
	most := 100.0
	for _, l := range f.lines {
		for _, p := range l.points {
			most = max(most, p.Y)
		}
	}
	var plots [][]*plot.Plot
	for i, l := range f.lines {
		p := newPlot()
		p.Y.Label.Text = l.name + "\n" + f.y
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = from, to, 1, decade(most, math.Ceil)
		p.Y.Tick.Marker, p.Y.Scale = decades{crowded: true}, plot.LogScale{}
		last := i == len(f.lines)-1
		p.X.Tick.Marker = plot.ConstantTicks(seconds(last))
		for k := range l.points {
			l.points[k].Y = max(l.points[k].Y, p.Y.Min)
		}
		drawn, err := plotter.NewLine(l.points)
		if err != nil {
			return nil, fmt.Errorf("line %s: %w", l.name, err)
		}
		drawn.Color, drawn.Width = plotutil.Color(i), vg.Points(1)
		p.Add(drawn)
		if last {
			p.X.Label.Text = f.x
		}
		plots = append(plots, []*plot.Plot{p})
	}
	canvas := vgsvg.New(width, vg.Length(len(plots))*small+below)
	tiles := plot.Align(plots, draw.Tiles{Rows: len(plots), Cols: 1, PadY: vg.Points(4)}, draw.New(canvas))
	for i := range plots {
		plots[i][0].Draw(tiles[i][0])
	}
	return svg(canvas)
}

// svg is what was drawn. Arial is as wide as the typeface that it was drawn for, where that is not.
func svg(canvas *vgsvg.Canvas) ([]byte, error) {
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,sans-serif;")), nil
}

// decade is the next power of ten.
func decade(v float64, round func(float64) float64) float64 {
	return math.Pow(10, round(math.Log10(v)))
}

// decades are an axis' ticks at powers of ten. Of a crowded one only every second says which.
type decades struct{ crowded bool }

// Ticks implements plot.Ticker.
func (d decades) Ticks(least, most float64) []plot.Tick {
	var ticks []plot.Tick
	for v := decade(least, math.Floor); v <= most*1.001; v *= 10 {
		label := strconv.FormatFloat(v, 'f', -1, 64)
		if d.crowded && len(ticks)%2 == 1 {
			label = unsaid
		}
		ticks = append(ticks, plot.Tick{Value: v, Label: label})
	}
	return ticks
}

// unsaid is the label of a tick that says nothing: one without a label is a minor one, and has no line in the grid.
const unsaid = " "

// doublings are ticks at powers of two.
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

// integers are ticks for lines over 0, 1, 2 and so on, a dozen at most.
func integers(lines []line) (ticks []plot.Tick) {
	var last int
	for _, l := range lines {
		for _, p := range l.points {
			last = max(last, int(p.X))
		}
	}
	for v := 0; v <= last; v += last/12 + 1 {
		ticks = append(ticks, plot.Tick{Value: float64(v), Label: fmt.Sprint(v)})
	}
	return ticks
}

// seconds are ticks for the time around a cutover. Only one of several axes says which.
func seconds(said bool) (ticks []plot.Tick) {
	for v := from; v <= to; v++ {
		label := unsaid
		if said {
			label = fmt.Sprint(v)
		}
		ticks = append(ticks, plot.Tick{Value: v, Label: label})
	}
	return ticks
}
