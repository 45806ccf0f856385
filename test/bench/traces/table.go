package traces

import (
	"fmt"
	"io"
	"time"

	"godwit.dev/godwit/pagestream/precopy"
)

// starts are the moments of a trace at which migrations begin, whose mean counts: a single
// one is luck.
const (
	starts     = 8
	startEvery = 1370 * time.Millisecond
)

// Mean is how migrations by one rule went on average.
type Mean struct {
	DowntimeMS float64 `json:"downtime_ms"`
	MiB        float64 `json:"sent_mib"`
	Rounds     float64 `json:"rounds"`
	TotalS     float64 `json:"total_s"`
}

// Comparison is a trace over a link, by each rule.
type Comparison struct {
	Trace     string  `json:"trace"`
	MemoryMiB float64 `json:"memory_mib"`
	Link      string  `json:"link"`
	S0        Mean    `json:"s0"`
	Default   Mean    `json:"default"`
}

// Downtime is that of the default rule as a share of S0's.
func (c Comparison) Downtime() float64 { return c.Default.DowntimeMS / c.S0.DowntimeMS }

// Bytes are those of the default rule as a share of S0's.
func (c Comparison) Bytes() float64 { return c.Default.MiB / c.S0.MiB }

// Copies is how often the default rule sends the memory, the last copy too.
func (c Comparison) Copies() float64 { return c.Default.MiB / c.MemoryMiB }

// Compare replays traces over all links by both rules, each with its defaults.
func Compare(all []*Trace) []Comparison {
	var out []Comparison
	for _, t := range all {
		for _, l := range Links {
			out = append(out, Comparison{
				Trace: t.Name, MemoryMiB: float64(t.Bytes()) / (1 << 20), Link: l.Name,
				S0:      mean(t, l, precopy.Policy{Rule: precopy.S0}),
				Default: mean(t, l, precopy.Policy{}),
			})
		}
	}
	return out
}

func mean(t *Trace, l Link, policy precopy.Policy) Mean {
	var m Mean
	for i := range starts {
		o := Replay(t, l, policy, time.Duration(i)*startEvery)
		m.DowntimeMS += float64(o.Downtime.Microseconds()) / 1e3 / starts
		m.MiB += float64(o.Bytes) / (1 << 20) / starts
		m.Rounds += float64(o.Rounds) / starts
		m.TotalS += o.Total.Seconds() / starts
	}
	return m
}

// Verdict is what comparisons come to.
type Verdict struct {
	// Downtime and Bytes are the greatest shares of S0's anywhere.
	Downtime, Bytes float64
	// Copies is the greatest number of times that the default rule sends a memory.
	Copies float64
	// Lower is of how many traces the downtime is at least 30 % lower over one of the
	// links, and Traces how many there are.
	Lower, Traces int
}

// much is the share of S0's downtime that counts as much lower.
const much = 0.7

// Judge sums comparisons up.
func Judge(all []Comparison) Verdict {
	var v Verdict
	least := make(map[string]float64)
	for _, c := range all {
		v.Downtime, v.Bytes, v.Copies = max(v.Downtime, c.Downtime()), max(v.Bytes, c.Bytes()), max(v.Copies, c.Copies())
		if best, ok := least[c.Trace]; !ok || c.Downtime() < best {
			least[c.Trace] = c.Downtime()
		}
	}
	for _, share := range least {
		v.Traces++
		if share <= much {
			v.Lower++
		}
	}
	return v
}

// Print prints comparisons as a table.
func Print(w io.Writer, all []Comparison) {
	fmt.Fprintf(w, "\n%-18s %-18s %10s %10s %6s   %9s %9s %6s\n", "replayed trace", "link", "S0", "default", "", "S0", "default", "")
	for _, c := range all {
		fmt.Fprintf(w, "%-18s %-18s %7.0f ms %7.0f ms %6.2f   %5.0f MiB %5.0f MiB %6.2f\n", c.Trace, c.Link,
			c.S0.DowntimeMS, c.Default.DowntimeMS, c.Downtime(), c.S0.MiB, c.Default.MiB, c.Bytes())
	}
}

// What the default rule promises against S0: no longer downtime and no more bytes on any
// trace, but for what rounds of another number cost.
const (
	DowntimeShare = 1.005
	BytesShare    = 1.01
)

// HopelessCopies is how often the default rule sends the memory of a program without a chance at most:
// once, and once more frozen, and what it takes to see that it is one.
const HopelessCopies = 2.6
