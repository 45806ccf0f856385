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
// told what is written how often; of shorter ones, what each costs beside its pages would take
// too much of the link. The first such round cannot tell pages from each other at all, and
// carries less where that would be most of them. A round that only looks carries one part in
// lookShare, so that there is something whose fate can be seen.
const (
	minSlice   = 500 * time.Millisecond
	sliceShare = 8
	lookShare  = 16
)

// Slice is how many of so many dirty pages the next round may carry.
func Slice(history []RoundStat, dirty uint64) uint64 {
	fits := linkPages(history)
	switch {
	case fits == 0:
		return dirty
	case len(history) == 1:
		fits = max(fits/2, min(fits, dirty/2))
	}
	return max(fits, dirty/sliceShare)
}

// Look is how many of so many dirty pages the next round may carry if it is only to see
// whether the pod writes less by now.
func Look(history []RoundStat, dirty uint64) uint64 {
	fits := linkPages(history)
	if fits == 0 {
		return dirty
	}
	return fits / lookShare
}

// linkPages is how many pages the link takes in minSlice; 0 if it is not known.
func linkPages(history []RoundStat) uint64 {
	return uint64(copyRate(history) * minSlice.Seconds() / pagestream.PageSize)
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
	Left              []pagestream.Range // all pages that are left out
	// Lost is how many pages are dirty that the destination had as they were, and
	// Before how many that the round before left out.
	Lost, Before uint64
}

// Sorting tells pages that are written often from others, round by round. Its zero value
// has seen no round.
type Sorting struct {
	written []map[pagestream.Space]pageSet // by the last rounds, the newest first
	left    map[pagestream.Space]pageSet   // by the last one
}

// Sort splits the pages of a round. It sends those first that were written in the fewest
// of the last rounds, most pages in all: they are the likeliest to stay as they are.
func (s *Sorting) Sort(processes []Written, most func(dirty uint64) uint64) []Sorted {
	s.note(processes)
	dirty := make([]pageSet, len(processes))
	var levels [sortedBy + 1]uint64 // cold pages by how many rounds found them written
	for i, p := range processes {
		dirty[i] = setOf(p.Dirty)
		s.each(p.Space, dirty[i], func(_ uint64, w sortedWord) {
			for level := range levels {
				levels[level] += count(w.cold & w.level(level))
			}
		})
	}
	c := cutAt(levels, most)
	sorted := make([]Sorted, len(processes))
	for i, p := range processes {
		r := &sorted[i]
		r.Send = make([]pagestream.Range, 0, len(p.Dirty)) // growing it would take as long as the rest
		s.each(p.Space, dirty[i], func(page uint64, w sortedWord) {
			send := c.take(w)
			r.Send = appendBits(r.Send, page, send)
			r.Hot = appendBits(r.Hot, page, w.hot)
			r.Behind = appendBits(r.Behind, page, w.cold&^send)
			r.Left = appendBits(r.Left, page, (w.hot|w.cold)&^send)
			r.Before += count(w.left)
			r.Lost += count((w.hot | w.cold) &^ w.left)
		})
		if p.Fresh {
			r.Lost, r.Before = 0, 0 // the destination had nothing of it
		}
	}
	s.left = make(map[pagestream.Space]pageSet, len(processes))
	for i, p := range processes {
		s.left[p.Space] = setOf(sorted[i].Left)
	}
	return sorted
}

// note takes in what was written before the round.
func (s *Sorting) note(processes []Written) {
	now := make(map[pagestream.Space]pageSet, len(processes))
	for _, p := range processes {
		if !p.Fresh {
			now[p.Space] = setOf(p.Written)
			continue
		}
		for _, before := range s.written {
			delete(before, p.Space)
		}
	}
	s.written = append([]map[pagestream.Space]pageSet{now}, s.written...)
	s.written = s.written[:min(len(s.written), sortedBy)]
}

// sortedWord is 64 dirty pages: those that are written all the time and the others, and
// how many of the last rounds found each written, its number's bits one in each word.
type sortedWord struct {
	hot, cold  uint64
	left       uint64 // those that the last round left out
	ones, twos uint64
	fours      uint64
}

// level are the pages that so many rounds found written.
func (w sortedWord) level(n int) uint64 {
	pages := ^uint64(0)
	for bit, word := range [...]uint64{w.ones, w.twos, w.fours} {
		if n>>bit&1 == 0 {
			word = ^word
		}
		pages &= word
	}
	return pages
}

// each tells of all words of a process' dirty pages, in order.
func (s *Sorting) each(space pagestream.Space, dirty pageSet, tell func(page uint64, w sortedWord)) {
	var readers [sortedBy]blockReader
	for n, written := range s.written {
		readers[n].set = written[space]
	}
	var rounds [sortedBy]*blockBits
	left := blockReader{set: s.left[space]}
	for b := range dirty {
		before := left.at(dirty[b].first)
		for n := range rounds {
			rounds[n] = readers[n].at(dirty[b].first)
		}
		for i, word := range dirty[b].bits {
			if word == 0 {
				continue
			}
			w := sortedWord{left: word & before[i]}
			if len(s.written) >= hotIn {
				w.hot = word
				for _, written := range rounds[:hotIn] {
					w.hot &= written[i]
				}
			}
			w.cold = word &^ w.hot
			for _, written := range rounds {
				carry := w.ones & written[i]
				w.ones ^= written[i]
				w.fours |= w.twos & carry
				w.twos ^= carry
			}
			tell(dirty[b].first*blockPages+uint64(i)*64, w)
		}
	}
}

// cut is up to where a round sends cold pages: those that fewer rounds than level found
// written, and some of those that so many did.
type cut struct {
	level int
	some  uint64
}

// cutAt has room for as many pages as most allows of those that there are.
func cutAt(levels [sortedBy + 1]uint64, most func(dirty uint64) uint64) cut {
	var all uint64
	for _, n := range levels {
		all += n
	}
	c := cut{some: most(all)}
	for c.level < len(levels) && levels[c.level] <= c.some {
		c.some -= levels[c.level]
		c.level++
	}
	return c
}

// take are the pages of a word that are sent.
func (c *cut) take(w sortedWord) uint64 {
	var send uint64
	for level := range c.level {
		send |= w.cold & w.level(level)
	}
	if c.some > 0 && c.level <= sortedBy {
		more := firstOf(w.cold&w.level(c.level), c.some)
		c.some -= count(more)
		send |= more
	}
	return send
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
		switch {
		case stat.Number == r.config.Policy.maxRounds():
			return dirty
		case r.looks:
			return Look(r.recent, dirty)
		}
		return Slice(r.recent, dirty)
	}
	for i, s := range r.sorting.Sort(processes, most) {
		p := &found.Processes[i]
		p.Dirty = s.Send
		if len(s.Left) > 0 {
			tracker.Defer(p.Space, s.Left)
			stat.Saved += r.savedOf(p.Process, s.Left)
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
	s.Lost += sorted.Lost
	s.Before += sorted.Before
}
