package lazy

import (
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/store"
)

// remotePages is the pages of a process of which some are missing. The presence
// is set by the fetcher; the rest is guarded by its mu.
type remotePages struct {
	presence
	fetcher *fetcher
	source  *source
	landing *store.Landing
	settled bitmap // asked for on this connection, here, or not wanted
	gone    bitmap // not wanted
	cursor  uint64
	wanted  map[uint64]waiting
}

// waiting is a missing page that processes wait for.
type waiting struct {
	since time.Time
	asked bool // on this connection
}

// restart counts nothing as asked for; mu is held, or nobody else has it.
func (p *remotePages) restart() {
	p.settled, p.cursor = p.gone.clone(), 0
	for i := p.find(0, p.source.pages, true); i < p.source.pages; {
		n := p.run(i, p.source.pages)
		p.settled.set(i, n)
		i = p.find(i+n, p.source.pages, true)
	}
	for i, w := range p.wanted {
		p.wanted[i] = waiting{since: w.since}
	}
}

// askNext asks for up to so many of the next pages that are not settled, and returns how many; the
// fetcher's mu is held.
func (p *remotePages) askNext(most uint64) uint64 {
	i := p.settled.next(p.cursor, p.source.pages)
	if i == p.source.pages {
		return 0
	}
	n := p.ask(i, min(p.source.pages, i+most), false)
	p.cursor = i + n
	return n
}

// ask asks for pages from i on that are not settled and lie one behind the other, up to end,
// and returns how many; the fetcher's mu is held.
func (p *remotePages) ask(i, end uint64, waits bool) uint64 {
	_, n := p.source.piece(i)
	n = min(n, end)
	for n < end && p.source.address(n) == p.source.address(n-1)+pageSize {
		_, next := p.source.piece(n)
		n = min(next, end)
	}
	n = p.settled.run(i, n)
	p.settled.set(i, n)
	p.send(i, n, waits)
	return n
}

// send sends a request; the fetcher's mu is held.
func (p *remotePages) send(i, n uint64, waits bool) {
	pid, r := uint32(p.source.pid), pagestream.Range{Start: p.source.address(i), Pages: n}
	p.fetcher.traffic.asked(request{pid, r.Start, n}, waits, time.Now())
	p.fetcher.asking.Want(pid, r, waits)
}

// want asks for a page that a process waits for, and for what is missing right behind
// and before it.
func (p *remotePages) want(i uint64) {
	f := p.fetcher
	f.mu.Lock()
	defer f.mu.Unlock()
	w, known := p.wanted[i]
	if !known {
		w.since = time.Now()
		f.faults++
	}
	p.wanted[i] = waiting{w.since, w.asked || f.asking != nil}
	if w.asked || f.asking == nil {
		return // without a connection: whoever waits asks again when there is one
	}
	// Also if it is under way in the background: then it comes twice, and the first time sooner.
	p.settled.set(i, 1)
	p.send(i, 1, true)
	first, end := i-min(i, around/4), min(i+around*3/4, p.source.pages)
	for _, part := range [][2]uint64{{i + 1, end}, {first, i}} {
		for j := p.settled.next(part[0], part[1]); j < part[1]; j = p.settled.next(j, part[1]) {
			j += p.ask(j, part[1], true)
		}
	}
	f.near.add(p, i)
	f.pump()
}

// forget counts pages as not wanted: no process has them any more.
func (p *remotePages) forget(first, n uint64) {
	f := p.fetcher
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := first; i < first+n; i++ {
		if !p.gone.has(i) && !p.has(i) {
			f.missing--
		}
		p.gone.set(i, 1)
	}
	p.settled.set(first, n)
}
