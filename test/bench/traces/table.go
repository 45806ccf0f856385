package traces

import (
	"fmt"
	"io"
	"time"

	"godwit.dev/godwit/pagestream/precopy"
)

// Comparison is a trace moved over a link by each rule.
type Comparison struct {
	Trace   string  `json:"trace"`
	Link    string  `json:"link"`
	S0      Outcome `json:"s0"`
	Default Outcome `json:"default"`
}

func print1(w io.Writer, t *Trace, l Link) {
	for _, start := range []time.Duration{0, 1300 * time.Millisecond, 2700 * time.Millisecond} {
		a := Replay(t, l, precopy.Policy{Rule: precopy.S0}, start)
		b := Replay(t, l, precopy.Policy{}, start)
		for i, o := range []Outcome{a, b} {
			n := []string{"S0", "Default"}[i]
			fmt.Fprintf(w, "%-20s %-18s %-8s %3d rounds %8.1f MiB %8.1f last %8.0f ms %6.1f s  %s\n", t.Name, l.Name, n, o.Rounds, float64(o.Bytes)/(1<<20), float64(o.Last)/(1<<20), float64(o.Downtime.Microseconds())/1000, o.Total.Seconds(), o.Reason)
		}
	}
}
