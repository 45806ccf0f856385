package cli

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/events"
)

// lineView prints each step, and progress once a second.
type lineView struct {
	w     io.Writer
	shown time.Time
}

func (v *lineView) event(e *nodev1.Event) {
	at := time.Unix(0, e.UnixNano)
	if e.Kind == "ended" {
		return // close says it
	}
	if e.Kind != "progress" {
		fmt.Fprintf(v.w, "%s  %s\n", at.Format("15:04:05.000"), e.Message)
		return
	}
	if at.Sub(v.shown) < time.Second {
		return
	}
	v.shown = at
	fmt.Fprintf(v.w, "%s  %s\n", at.Format("15:04:05.000"), progressLine(e.Progress))
}

func (v *lineView) close(last *nodev1.Event) {
	if last != nil && last.Result != nil {
		printResult(v.w, last.Result)
	}
}

// progressLine is round, share, rates and the predicted end in a few words.
func progressLine(p *nodev1.Progress) string {
	if p.GetFetching() {
		return fetchingLine(p)
	}
	s := fmt.Sprintf("round %d: %d of %d pages, %s/s, dirtied at %s/s",
		p.GetRound(), p.GetRoundPagesDone(), p.GetRoundPages(), Size(p.GetRate()), Size(p.GetDirtyRate()))
	s += predicted(p) + throttled(p)
	if p.GetEtaMs() > 0 {
		s += fmt.Sprintf(", rounds end in %v", (time.Duration(p.GetEtaMs()) * time.Millisecond).Round(100*time.Millisecond))
	}
	return s
}

// throttled says how far the pod is held back.
func throttled(p *nodev1.Progress) string {
	if p.GetThrottleOfMilliCpu() == 0 {
		return ""
	}
	return ", " + events.Throttle(p).String()
}

// predicted is what is known of the downtime if the freeze came now.
func predicted(p *nodev1.Progress) string {
	if p.GetPredictedDowntimeUs() == 0 {
		return ""
	}
	return fmt.Sprintf(", predicted downtime %.0f ms", ms(p.GetPredictedDowntimeUs()))
}

// barView shows a bar for the round under way, below the steps.
type barView struct {
	out    *os.File
	bars   *mpb.Progress
	bar    *mpb.Bar
	round  uint32
	shown  time.Time                       // when fetching last said something
	newest atomic.Pointer[nodev1.Progress] // the bar draws itself
}

func newBarView(out *os.File) *barView {
	return &barView{out: out, bars: mpb.New(mpb.WithOutput(out), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))}
}

func (v *barView) event(e *nodev1.Event) {
	if e.Kind != "progress" {
		v.step(e)
		return
	}
	p := e.Progress
	if p.GetFetching() {
		v.fetching(e)
		return
	}
	v.newest.Store(p)
	if v.bar == nil || p.GetRound() != v.round {
		v.drop()
		v.round = p.GetRound()
		v.bar = v.newBar(p)
	}
	v.bar.SetTotal(int64(p.GetRoundPages()), false)
	v.bar.SetCurrent(int64(p.GetRoundPagesDone()))
}

// fetching says about once a second how far the destination is.
func (v *barView) fetching(e *nodev1.Event) {
	v.drop()
	if at := time.Unix(0, e.UnixNano); at.Sub(v.shown) >= time.Second {
		v.shown = at
		fmt.Fprintf(v.bars, "%s  %s\n", at.Format("15:04:05.000"), fetchingLine(e.Progress))
	}
}

// step writes above the bar, and ends it when the rounds have ended.
func (v *barView) step(e *nodev1.Event) {
	if e.Kind == "freezing" || e.Kind == "ended" {
		v.drop()
	}
	if e.Kind == "ended" {
		return // close says it
	}
	fmt.Fprintf(v.bars, "%s  %s\n", time.Unix(0, e.UnixNano).Format("15:04:05.000"), e.Message)
}

func (v *barView) newBar(p *nodev1.Progress) *mpb.Bar {
	return v.bars.AddBar(int64(p.GetRoundPages()),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("round %d ", p.GetRound()))),
		mpb.AppendDecorators(decor.Percentage(), decor.Any(func(decor.Statistics) string {
			p := v.newest.Load()
			s := fmt.Sprintf("  %s/s, dirtied at %s/s", Size(p.GetRate()), Size(p.GetDirtyRate()))
			s += predicted(p) + throttled(p)
			if p.GetEtaMs() > 0 {
				s += fmt.Sprintf(", rounds end in %v", (time.Duration(p.GetEtaMs()) * time.Millisecond).Round(100*time.Millisecond))
			}
			return s
		})),
	)
}

func (v *barView) drop() {
	if v.bar != nil {
		v.bar.Abort(true)
		v.bar = nil
	}
}

func (v *barView) close(last *nodev1.Event) {
	v.drop()
	v.bars.Wait()
	if last != nil && last.Result != nil {
		printResult(v.out, last.Result)
	}
}

// printResult is a migration's figures, for people.
func printResult(w io.Writer, r *nodev1.Result) {
	if !r.Succeeded {
		return // the command ends with the error
	}
	t := r.Totals
	fmt.Fprintf(w, "\n%s moved from %s to %s: sandbox %s, address %s\n", r.Pod, r.From, r.Destination.GetNode(), short(r.Destination.GetSandbox()), r.Destination.GetPodIp())
	fmt.Fprintf(w, "  %s, engine %s; memory %s, sent %s (%s on the wire), files %s\n", r.Mode, r.Engine,
		Size(events.Memory(r)), Size(t.GetBytesSent()), Size(t.GetWireBytesSent()), Size(t.GetFileBytesSent()))
	fmt.Fprintf(w, "  %s\n", r.EngineReason)
	for _, round := range t.GetRounds() {
		fmt.Fprintf(w, "  round %-3d %10d pages %12s %10.1f ms\n", round.Number, round.DirtyPages, Size(round.Bytes), ms(round.DurationUs))
	}
	if r.LeftPages > 0 {
		fmt.Fprintf(w, "  %d pages were left and fetched after the move, %d faults waited for some\n", r.LeftPages, t.GetRemoteFaults())
	}
	fmt.Fprintf(w, "  total %.1f s", float64(r.TotalUs)/1e6)
	if d := r.Downtime; d != nil {
		fmt.Fprintf(w, ", downtime %.1f ms as the nodes see it (freeze %.1f, dump %.1f, pages %.1f, files %.1f; seal %.1f, restore %.1f; commit %.1f, resume %.1f)",
			ms(d.MeasuredUs), ms(d.FreezeUs), ms(d.DumpUs), ms(d.PagesUs), ms(d.FilesUs), ms(d.SealUs), ms(d.RestoreUs), ms(d.CommitUs), ms(d.ResumeUs))
	}
	if us := t.GetPredictedDowntimeUs(); us > 0 {
		fmt.Fprintf(w, ", predicted were %.1f ms", ms(us))
	}
	if held := events.Throttle(t).String(); held != "" {
		fmt.Fprintf(w, ", the pod was %s", held)
	}
	fmt.Fprintln(w)
	printStages(w, r.Downtime.GetStages())
}

// printStages draws the cutover: what began when, seen from the freeze, and took how long.
func printStages(w io.Writer, stages []*nodev1.Stage) {
	for _, s := range stages {
		fmt.Fprintf(w, "  stage %-8s at %8.1f ms, took %7.1f ms\n", s.Name, float64(s.BeginUs)/1000, ms(s.DurationUs))
	}
}
