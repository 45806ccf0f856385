package precopy

import (
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/track"
)

// Deferrer is a tracker that reports pages again that were left out of a round.
type Deferrer interface {
	// Defer has the next collection report the pages of ranges, which ascend and do
	// not overlap, whether they are written or not, unless they are gone.
	Defer(space pagestream.Space, ranges []pagestream.Range)
}

// Pages are sorted by how many of the last sortedBy rounds found them written, the one
// under way among them. Those that each of the last hotIn rounds found are left out.
const (
	sortedBy = 4
	hotIn    = 2
)

// A round of sorted pages carries at most what the link takes in minSlice, or a share of
// all that is dirty: during a long round much becomes dirty behind it, and it cannot be
// told what is written how often.
const (
	minSlice   = 250 * time.Millisecond
	sliceShare = 3
)

// Slice is how many of so many dirty pages the next round may carry.
func Slice(history []RoundStat, dirty uint64) uint64 {
	fits := uint64(copyRate(history) * minSlice.Seconds() / pagestream.PageSize)
	if fits == 0 {
		return dirty
	}
	return max(fits, dirty/sliceShare)
}

// Written is what a round found of a process: the pages that the destination has not,
// and which of them were written since the round before.
type Written struct {
	Space          pagestream.Space
	Dirty, Written []pagestream.Range
	Fresh          bool // nothing of the process was copied before
}

// Sorted is what becomes of them: pages to send, pages left out as they are written all
// the time, and others for which there is no room in the round.
type Sorted struct {
	Send, Hot, Behind []pagestream.Range
}

// Left is all pages that are left out.
func (s Sorted) Left() []pagestream.Range { return pagestream.Union(s.Hot, s.Behind) }

// Sorting tells pages that are written often from others, round by round. Its zero value
// has seen no round.
type Sorting struct {
	written []map[pagestream.Space][]pagestream.Range // by the last rounds, the newest first
}

// Sort splits the pages of a round. It sends those first that were written in the fewest
// of the last rounds, most pages in all: they are the likeliest to stay as they are.
func (s *Sorting) Sort(processes []Written, most func(dirty uint64) uint64) []Sorted {
	s.note(processes)
	sorted := make([]Sorted, len(processes))
	layers := make([][][]pagestream.Range, len(processes))
	var candidates uint64
	for i, p := range processes {
		var cold []pagestream.Range
		cold, sorted[i].Hot = s.cold(p)
		layers[i] = s.layers(p.Space, cold)
		candidates += pagesOf(cold)
	}
	room := most(candidates)
	for level := range sortedBy + 1 {
		for i := range processes {
			layer := layers[i][level]
			sent := pagestream.First(layer, room)
			room -= pagesOf(sent)
			sorted[i].Send = pagestream.Union(sorted[i].Send, sent)
			sorted[i].Behind = pagestream.Union(sorted[i].Behind, pagestream.Subtract(layer, sent))
		}
	}
	return sorted
}

// note takes in what was written before the round.
func (s *Sorting) note(processes []Written) {
	now := make(map[pagestream.Space][]pagestream.Range, len(processes))
	for _, p := range processes {
		if !p.Fresh {
			now[p.Space] = p.Written
			continue
		}
		for _, before := range s.written {
			delete(before, p.Space)
		}
	}
	s.written = append([]map[pagestream.Space][]pagestream.Range{now}, s.written...)
	s.written = s.written[:min(len(s.written), sortedBy)]
}

// cold parts the dirty pages of a process from those that are written all the time.
func (s *Sorting) cold(p Written) (cold, hot []pagestream.Range) {
	if len(s.written) < hotIn {
		return p.Dirty, nil
	}
	hot = p.Dirty
	for _, written := range s.written[:hotIn] {
		hot = pagestream.Intersect(hot, written[p.Space])
	}
	return pagestream.Subtract(p.Dirty, hot), hot
}

// layers sorts pages by how many of the last rounds found them written.
func (s *Sorting) layers(space pagestream.Space, pages []pagestream.Range) [][]pagestream.Range {
	layers := make([][]pagestream.Range, sortedBy+1)
	layers[0] = pages
	for n, written := range s.written {
		w := written[space]
		for level := n; level >= 0; level-- {
			again := pagestream.Intersect(layers[level], w)
			layers[level] = pagestream.Subtract(layers[level], w)
			layers[level+1] = pagestream.Union(layers[level+1], again)
		}
	}
	return layers
}

// sort takes the pages out of a round that are left out, and has the tracker report
// them again. In the last round that there may be, only those that are hot.
func (r *Rounds) sort(found *track.Round, stat *RoundStat) {
	tracker, ok := r.config.Tracker.(Deferrer)
	if !ok || r.config.Policy.Rule == S0 || stat.Number == 0 {
		return
	}
	processes := make([]Written, len(found.Processes))
	for i, p := range found.Processes {
		processes[i] = Written{Space: p.Space, Dirty: p.Dirty, Written: p.Written, Fresh: p.New}
	}
	most := func(dirty uint64) uint64 {
		if stat.Number == r.config.Policy.maxRounds() {
			return dirty
		}
		return Slice(r.recent, dirty)
	}
	for i, s := range r.sorting.Sort(processes, most) {
		p := &found.Processes[i]
		p.Dirty = s.Send
		if left := s.Left(); len(left) > 0 {
			tracker.Defer(p.Space, left)
		}
		stat.Book(processes[i], s)
	}
}

// Book adds what became of a process' pages to a round.
func (s *RoundStat) Book(w Written, sorted Sorted) {
	s.Sorted = true
	s.Pages += pagesOf(w.Written)
	s.Hot += pagesOf(sorted.Hot)
	s.Behind += pagesOf(sorted.Behind)
	s.Fresh += pagesOf(pagestream.Intersect(w.Written, sorted.Send))
}
