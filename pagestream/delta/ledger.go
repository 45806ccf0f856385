package delta

import "godwit.dev/godwit/pagestream"

// Key names a page of one space.
type Key struct {
	Space   pagestream.Space
	Address uint64
}

const (
	// maxIdle is how many rounds without a page count; more are no different.
	maxIdle = 16
	// noSlot is the slot of a page that has none.
	noSlot = -1
)

// ledger says which pages have a copy, in which of a number of slots. It is the cache's
// judgement without its memory:
//
//   - a page gets a slot when it is sent again, so one that is sent only once never does;
//   - a page that the round under way found written keeps its slot, as it is likely to be
//     sent again. If all slots are of such pages, no other page gets one: with memory that is
//     written in turns and larger than the cache, to take the oldest one's slot
//     would lose every copy before it is of use;
//   - others give theirs up when one is needed, those first that were not found for the most
//     rounds;
//   - a page of which a delta was no use gives its slot up, and gets none again.
type ledger struct {
	most    int
	slots   map[Key]int
	entries []entry // by slot
	free    []int
	victims []int        // slots to take if none is free, the best one last
	unfit   map[Key]bool // at most as many as there are slots
}

type entry struct {
	key  Key
	used bool
	idle int // rounds since one found the page written, at most maxIdle
}

func newLedger(slots int) *ledger {
	return &ledger{most: slots, slots: make(map[Key]int), unfit: make(map[Key]bool)}
}

// begin begins a round; written says of a page whether the round found it so. Until the
// next one, no slot is taken from a page that it did.
func (l *ledger) begin(written func(Key) bool) {
	var byIdle [maxIdle + 1][]int
	for slot := range l.entries {
		e := &l.entries[slot]
		switch {
		case !e.used:
			continue
		case written(e.key):
			e.idle = 0
			continue
		}
		e.idle = min(e.idle+1, maxIdle)
		byIdle[e.idle] = append(byIdle[e.idle], slot)
	}
	l.victims = l.victims[:0]
	for _, slots := range byIdle {
		l.victims = append(l.victims, slots...)
	}
}

// find returns a page's slot, noSlot if it has none.
func (l *ledger) find(k Key) int {
	if slot, ok := l.slots[k]; ok {
		return slot
	}
	return noSlot
}

// admit gives a page a slot if it deserves one.
func (l *ledger) admit(k Key) int {
	if l.unfit[k] {
		return noSlot
	}
	slot := l.vacant()
	if slot != noSlot {
		l.entries[slot] = entry{key: k, used: true}
		l.slots[k] = slot
	}
	return slot
}

// vacant finds a slot that is free, or is made so.
func (l *ledger) vacant() int {
	if n := len(l.free); n > 0 {
		slot := l.free[n-1]
		l.free = l.free[:n-1]
		return slot
	}
	if len(l.entries) < l.most {
		l.entries = append(l.entries, entry{})
		return len(l.entries) - 1
	}
	for n := len(l.victims); n > 0; n = len(l.victims) {
		slot := l.victims[n-1]
		l.victims = l.victims[:n-1]
		if e := l.entries[slot]; e.used && e.idle > 0 { // it may have come and gone since
			delete(l.slots, e.key)
			return slot
		}
	}
	return noSlot
}

// drop takes a slot from its page.
func (l *ledger) drop(slot int) {
	delete(l.slots, l.entries[slot].key)
	l.entries[slot] = entry{}
	l.free = append(l.free, slot)
}

// reject is drop for a page that a delta does not suit.
func (l *ledger) reject(slot int) {
	if len(l.unfit) >= l.most {
		clear(l.unfit) // some get another chance
	}
	l.unfit[l.entries[slot].key] = true
	l.drop(slot)
}

// forget drops all pages of a space.
func (l *ledger) forget(space pagestream.Space) {
	for slot, e := range l.entries {
		if e.used && e.key.Space == space {
			l.drop(slot)
		}
	}
	for k := range l.unfit {
		if k.Space == space {
			delete(l.unfit, k)
		}
	}
}
