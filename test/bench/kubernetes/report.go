package main

import (
	"cmp"
	"slices"
	"time"

	"godwit.dev/godwit/test/figure"
)

type report struct {
	Figures []figure.Figure `json:"figures"`
	// The figures come from these.
	Kubernetes []measuredMove `json:"kubernetes"`
	Plain      []measuredMove `json:"without_kubernetes"`
	Alone      []measuredMove `json:"one_of_ten_alone"`
	Together   []measuredMove `json:"ten_at_once"`
	Idle       *measuredUsage `json:"idle,omitempty"`
	Finished   *measuredUsage `json:"idle_with_1000_finished,omitempty"`
}

// measuredMove is a move, milliseconds.
type measuredMove struct {
	Gap      float64 `json:"client_gap_ms"`
	Downtime float64 `json:"downtime_ms"`
	Total    float64 `json:"total_ms"`
	Before   int     `json:"writes_in_a_second_before"`
	After    int     `json:"writes_in_the_second_after"`
	Worst    float64 `json:"longest_wait_then_ms"`
}

// measuredUsage is what an idle daemon took, MiB and percent of a processor.
type measuredUsage struct {
	Resident  float64 `json:"resident_mib"`
	Share     float64 `json:"pss_mib"`
	Anonymous float64 `json:"anonymous_mib"`
	Processor float64 `json:"processor_percent"`
}

// report judges what was measured.
func (b *bench) report() report {
	r := report{Kubernetes: measured(b.kube), Plain: measured(b.plain), Alone: measured(b.alone), Together: measured(b.together)}
	r.Figures = slices.Concat(b.judgeMove(), b.judgeTen(), b.judgeIdle())
	if b.before.resident > 0 {
		r.Idle, r.Finished = b.before.measured(), b.after.measured()
	}
	return r
}

// gap, downtime and total are what is taken of a move, milliseconds.
func gap(m moved) float64      { return ms(m.gap) }
func downtime(m moved) float64 { return ms(m.downtime) }
func total(m moved) float64    { return ms(m.total) }

// share is what the client got done in the second after, of what it did in one before; worst its longest wait then, milliseconds.
func share(m moved) float64 { return float64(m.after) / float64(max(m.before, 1)) }
func worst(m moved) float64 { return ms(m.worst) }

// judgeMove compares medians.
func (b *bench) judgeMove() []figure.Figure {
	if len(b.kube) == 0 {
		return nil
	}
	return []figure.Figure{
		{Name: "downtime by a PodMigration / without Kubernetes, client", Value: median(b.kube, gap) / median(b.plain, gap), Limit: 1.5},
		{Name: "the same, as the daemons say", Value: median(b.kube, downtime) / median(b.plain, downtime), Limit: 1.5},
		{Name: "writes in the second after a PodMigration's move / in one before it", Value: median(b.kube, share), Limit: 0.7, AtLeast: true},
		{Name: "the longest wait for one of them", Value: median(b.kube, worst), Unit: "ms", Limit: 50},
		{Name: "total of a PodMigration, more than without", Value: (median(b.kube, total) - median(b.plain, total)) / 1000, Unit: "s", Limit: 3},
	}
}

// judgeTen compares the worst of all that moved together with the median of one.
func (b *bench) judgeTen() []figure.Figure {
	if len(b.together) == 0 {
		return nil
	}
	return []figure.Figure{
		{Name: "worst downtime of ten pods at once / of one, client", Value: most(b.together, gap) / median(b.alone, gap), Limit: 3},
		{Name: "the same, as the daemons say", Value: most(b.together, downtime) / median(b.alone, downtime), Limit: 3},
	}
}

func (b *bench) judgeIdle() []figure.Figure {
	if b.before.resident == 0 {
		return nil
	}
	return []figure.Figure{
		{Name: "godwit-node idle, resident", Value: mib(b.before.resident), Unit: "MiB", Limit: 60},
		{Name: "godwit-node idle, processor", Value: b.before.processor * 100, Unit: "%", Limit: 1},
		{Name: "resident with 1,000 finished PodMigrations / without", Value: mib(b.after.resident) / mib(b.before.resident), Limit: 2},
		{Name: "processor with 1,000 finished PodMigrations / without", Value: b.after.processor / b.before.processor, Limit: 2},
	}
}

func measured(moves []moved) []measuredMove {
	all := []measuredMove{}
	for _, m := range moves {
		all = append(all, measuredMove{Gap: gap(m), Downtime: downtime(m), Total: total(m), Before: m.before, After: m.after, Worst: worst(m)})
	}
	return all
}

func (u usage) measured() *measuredUsage {
	return &measuredUsage{Resident: mib(u.resident), Share: mib(u.share), Anonymous: mib(u.anonymous), Processor: u.processor * 100}
}

// values are what is taken of moves, in order.
func values(moves []moved, take func(moved) float64) []float64 {
	var all []float64
	for _, m := range moves {
		all = append(all, take(m))
	}
	slices.SortFunc(all, cmp.Compare)
	return all
}

func median(moves []moved, take func(moved) float64) float64 {
	all := values(moves, take)
	return all[len(all)/2]
}

func most(moves []moved, take func(moved) float64) float64 {
	return slices.Max(values(moves, take))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }
