package traces

import (
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/precopy"
)

// Link is what pages go over, and what goes with them.
type Link struct {
	Name string
	Rate float64       // bytes a second
	Trip time.Duration // that a round waits for until its last page is stored
}

// Links are those that the rules are compared on.
var Links = []Link{
	{"unshaped", 1e9, time.Millisecond},
	{"1 Gbit/s", 117e6, time.Millisecond},
	{"200 Mbit/s, 10 ms", 23.5e6, 20 * time.Millisecond},
}

// scanTime is how long a collection takes, for each GiB and at least: measured on a
// redis, see package track.
const (
	scanTime = 8 * time.Millisecond
	scanLess = time.Millisecond
)

// Outcome is how a migration would have gone.
type Outcome struct {
	Rounds   int    // after the first full copy
	Bytes    uint64 // sent in all, the last copy too
	Last     uint64 // of them by the last copy
	Downtime time.Duration
	Total    time.Duration // from the beginning to the end of the downtime
	Reason   precopy.Reason
}

// Replay has a policy move the program of a trace over a link. The trace begins at
// start, and again when it is over. Nothing slows the program down.
func Replay(t *Trace, link Link, policy precopy.Policy, start time.Duration) Outcome {
	m := &memory{trace: t, now: start, written: make([]bool, t.Pages)}
	scan := scanLess + time.Duration(float64(scanTime)*float64(t.Bytes())/(1<<30))
	carry := func(pages uint64) time.Duration {
		return link.Trip + time.Duration(float64(pages*pagestream.PageSize)/link.Rate*float64(time.Second))
	}
	var out Outcome
	var history []precopy.RoundStat
	var sorting precopy.Sorting
	var left []pagestream.Range
	collected := m.now
	room := precopy.Slice
	for {
		s := precopy.RoundStat{Number: len(history), Scan: scan}
		send := []pagestream.Range{{Pages: t.Pages}}
		began := m.now
		if s.Number > 0 {
			s.Window = m.now - collected
			written := m.collect()
			s.Pages, send = pagesOf(written), written
			if policy.Rule != precopy.S0 {
				dirty := pagestream.Union(written, left)
				w := precopy.Written{Dirty: dirty, Written: written}
				sorted := sorting.Sort([]precopy.Written{w}, func(n uint64) uint64 { return room(history, n) })[0]
				send, left = sorted.Send, sorted.Left
				s.Pages = 0
				s.Book(w, sorted)
			}
		} else {
			m.collect()
			s.Pages = t.Pages
		}
		collected = began
		s.Copied.Sent = pagesOf(send)
		s.Copy = carry(s.Copied.Sent)
		m.run(s.Duration())
		out.Bytes += s.Copied.Sent * pagestream.PageSize
		history = append(history, s)
		d := precopy.Decide(history, policy)
		if d.Stop {
			out.Rounds, out.Reason = s.Number, d.Reason
			break
		}
		if room = precopy.Slice; d.Wait > 0 {
			room = precopy.Look
		}
		m.run(d.Wait)
	}
	last := pagesOf(pagestream.Union(m.collect(), left))
	out.Last = last * pagestream.PageSize
	out.Bytes += out.Last
	still := precopy.DefaultStandstill
	if policy.Standstill != (precopy.Standstill{}) {
		still = policy.Standstill
	}
	out.Downtime = still.Freeze + max(still.Dump, scan+carry(last)) + still.Restore
	out.Total = m.now - start + out.Downtime
	return out
}

// memory is the program's, at a moment of its trace.
type memory struct {
	trace   *Trace
	now     time.Duration
	written []bool // since the last collection
}

// run lets the program run for a while. A page that was written in an interval of the
// trace is written at one moment of it, which is the same at each replay.
func (m *memory) run(d time.Duration) {
	end := m.now + d
	interval := m.trace.Interval
	// Once round the trace writes all that ever is.
	from := max(m.now, end-m.trace.Duration()-interval)
	for i := int(from / interval); time.Duration(i)*interval < end; i++ {
		at := time.Duration(i) * interval
		whole := at >= m.now && at+interval <= end
		for _, r := range m.trace.Dirty[i%len(m.trace.Dirty)] {
			for p := r.First; p < r.First+r.Pages; p++ {
				if m.written[p] {
					continue
				}
				when := at + moment(p, uint64(i), interval)
				m.written[p] = whole || when >= m.now && when < end
			}
		}
	}
	m.now = end
}

// moment spreads the pages of an interval over it.
func moment(page, interval uint64, length time.Duration) time.Duration {
	h := (page*0x9e3779b97f4a7c15 ^ interval*0xbf58476d1ce4e5b9)
	h ^= h >> 31
	h *= 0x94d049bb133111eb
	h ^= h >> 29
	return time.Duration(h % uint64(length))
}

// collect returns what was written since it was last called.
func (m *memory) collect() []pagestream.Range {
	var runs []pagestream.Range
	for p, written := range m.written {
		if written {
			runs = pagestream.AppendRun(runs, pagestream.Range{Start: uint64(p) * pagestream.PageSize, Pages: 1})
		}
	}
	clear(m.written)
	return runs
}

func pagesOf(runs []pagestream.Range) (n uint64) {
	for _, r := range runs {
		n += r.Pages
	}
	return n
}
