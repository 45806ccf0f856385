package kubectl

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cli"
)

// view shows a migration that is waited for.
type view interface {
	show(*v1alpha1.PodMigration)
	note(string)
	// close ends the display; the figures are shown if the migration is given.
	close(*v1alpha1.PodMigration)
}

// view is a bar on a terminal, lines elsewhere, and JSON where that is asked for.
func (a *app) view(w io.Writer) view {
	if a.json {
		return jsonView{w}
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return newBarView(f)
	}
	return &lineView{steps: steps{w: w}}
}

// jsonView prints each object on a line of its own.
type jsonView struct{ w io.Writer }

func (v jsonView) show(m *v1alpha1.PodMigration) { _ = cli.PrintJSON(v.w, printable(m)) }
func (jsonView) note(text string)                { fmt.Fprintln(os.Stderr, text) }
func (jsonView) close(*v1alpha1.PodMigration)    {}

// steps prints what is new in an object, but for its progress.
type steps struct {
	w       io.Writer
	phase   v1alpha1.Phase
	message string
	named   bool
}

func (s *steps) line(text string) {
	fmt.Fprintf(s.w, "%s  %s\n", time.Now().Format("15:04:05.000"), text)
}

func (s *steps) show(m *v1alpha1.PodMigration) {
	if !s.named {
		s.named = true
		s.line("podmigration " + m.Name)
	}
	st := &m.Status
	if st.Phase.Over() || st.Phase == s.phase && st.Message == s.message {
		return // what an end was is said by close, or is the command's error
	}
	text := string(st.Phase)
	if st.Message != "" && st.Message != s.message {
		text += ": " + st.Message
	} else if st.Phase == s.phase {
		return
	}
	s.phase, s.message = st.Phase, st.Message
	s.line(text)
}

// lineView prints each step, and progress at most once a second.
type lineView struct {
	steps
	shown    time.Time
	progress string
}

func (v *lineView) show(m *v1alpha1.PodMigration) {
	v.steps.show(m)
	text := progress(&m.Status)
	if m.Status.Phase != v1alpha1.PhaseMigrating || text == v.progress || time.Since(v.shown) < time.Second {
		return
	}
	v.shown, v.progress = time.Now(), text
	v.line(text)
}

func (v *lineView) note(text string) { v.line(text) }

func (v *lineView) close(m *v1alpha1.PodMigration) { printFigures(v.w, m) }

// progress is round, amount and rates in a few words; empty before there is any.
func progress(s *v1alpha1.PodMigrationStatus) string {
	if s.BytesSent == 0 {
		return ""
	}
	text := fmt.Sprintf("round %d: sent %s for %s of memory, %s/s, dirtied at %s/s", round(s),
		size(s.BytesSent), size(s.MemoryBytes), size(s.Rate), size(s.DirtyRate))
	if d := s.PredictedDowntime; d != nil {
		text += fmt.Sprintf(", predicted downtime %d ms", d.Milliseconds())
	}
	if s.Throttle != "" {
		text += ", " + s.Throttle
	}
	return text
}

// round that is under way: the one after those that are over.
func round(s *v1alpha1.PodMigrationStatus) int32 {
	if n := len(s.Rounds); n > 0 {
		return s.Rounds[n-1].Number + 1
	}
	return 0
}

func size(n int64) string { return cli.Size(uint64(max(0, n))) }

// barView shows a bar for the memory, below the steps. It is full when the first
// copy is done, and stays while rounds follow. What was compressed leaves it short until then.
type barView struct {
	steps
	out    *os.File
	bars   *mpb.Progress
	bar    *mpb.Bar
	newest atomic.Pointer[v1alpha1.PodMigrationStatus] // the bar draws itself
}

func newBarView(out *os.File) *barView {
	bars := mpb.New(mpb.WithOutput(out), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
	return &barView{steps: steps{w: bars}, out: out, bars: bars}
}

func (v *barView) show(m *v1alpha1.PodMigration) {
	s := &m.Status
	if s.Phase != v1alpha1.PhaseMigrating {
		v.drop()
	}
	v.steps.show(m)
	if s.Phase != v1alpha1.PhaseMigrating || s.MemoryBytes == 0 {
		return
	}
	v.newest.Store(s)
	if v.bar == nil {
		v.bar = v.bars.AddBar(s.MemoryBytes, mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name("memory ")),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return "  " + progress(v.newest.Load()) })))
	}
	v.bar.SetTotal(s.MemoryBytes, false)
	done := s.BytesSent
	if len(s.Rounds) > 0 {
		done = s.MemoryBytes
	}
	v.bar.SetCurrent(min(done, s.MemoryBytes-1)) // a full bar would go away
}

func (v *barView) note(text string) { v.line(text) }

func (v *barView) drop() {
	if v.bar != nil {
		v.bar.Abort(true)
		v.bar = nil
	}
}

func (v *barView) close(m *v1alpha1.PodMigration) {
	v.drop()
	v.bars.Wait()
	printFigures(v.out, m)
}

// printFigures is what a migration that succeeded came to; of any other the
// command's error tells.
func printFigures(w io.Writer, m *v1alpha1.PodMigration) {
	if m == nil || m.Status.Phase != v1alpha1.PhaseSucceeded {
		return
	}
	s := &m.Status
	fmt.Fprintf(w, "\npod %s moved from %s to %s", m.Spec.PodName, s.SourceNode, s.DestinationNode)
	if p := s.DestinationPod; p != nil {
		fmt.Fprintf(w, ": it is pod %s, address %s", p.Name, cli.Dash(p.IP))
	}
	fmt.Fprintf(w, "\n  %s, engine %s; memory %s, sent %s\n", m.Spec.Mode, cli.Dash(s.Engine), size(s.MemoryBytes), size(s.BytesSent))
	printRounds(w, s.Rounds)
	fmt.Fprintf(w, "  total %s, downtime %s\n", took(s.Total), took(s.Downtime))
}

func printStages(w io.Writer, stages []v1alpha1.Stage) {
	for _, s := range stages {
		fmt.Fprintf(w, "  stage %-8s at %12s, took %12s\n", s.Name, s.Begin.Round(100*time.Microsecond), s.Duration.Round(100*time.Microsecond))
	}
}

func printRounds(w io.Writer, rounds []v1alpha1.Round) {
	for _, r := range rounds {
		fmt.Fprintf(w, "  round %-3d %10d pages %12s %12s\n", r.Number, r.DirtyPages, size(r.Bytes), r.Duration.Round(100*time.Microsecond))
	}
}
