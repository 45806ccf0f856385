package pageserver

import (
	"fmt"
	"sync"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagehash"
)

// Index is what the destination holds of one container, from round to round.
//
// A page may be left out of a round only if the round before had it: a page
// that an older round had, and the one before passed over, may have been
// written in between, with its dirty bit cleared since. So the index is the
// page map of the last round that was committed, and of nothing else.
//
// The states and what moves between them:
//
//	consistent --Serve--> inRound --Commit--> consistent
//	broken     --Serve--> inRound --Fail----> broken
//
// A round that failed has cleared dirty bits all the same, so a broken index,
// as a new one, has no parents and the next round sends everything. Serve fails
// the round itself if its conversation failed, and a round that was neither
// committed nor failed is failed by the next Serve.
//
// Its methods may be called from any goroutine. A range in it takes 16 bytes.
type Index struct {
	seed uint64

	mu     sync.Mutex // guards what follows
	state  indexState
	round  *Round // under way
	held   map[pagestream.Space][]pagestream.Range
	stored map[pagestream.Space][]pagestream.Range // all that may be at the destination
	tables map[pagestream.Space]*pagehash.Table    // of shared memory
}

type indexState uint8

const (
	// broken: no round was committed, or the last one failed.
	broken indexState = iota
	// consistent: the last round was committed.
	consistent
	// inRound: Serve has begun, its round is neither committed nor failed.
	inRound
)

func (s indexState) String() string {
	return [...]string{"broken", "consistent", "in a round"}[s]
}

// NewIndex makes the index of a destination that has nothing. The error is
// that of the machine's random numbers.
func NewIndex() (*Index, error) {
	seed, err := pagehash.NewSeed()
	if err != nil {
		return nil, err
	}
	return &Index{
		seed:   seed,
		held:   make(map[pagestream.Space][]pagestream.Range),
		stored: make(map[pagestream.Space][]pagestream.Range),
		tables: make(map[pagestream.Space]*pagehash.Table),
	}, nil
}

// Close gives up the memory of the index.
func (x *Index) Close() { x.Fail() }

// begin starts a round.
func (x *Index) begin(r *Round) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state == inRound {
		x.fail()
	}
	x.state, x.round = inRound, r
}

// Commit ends a round that Serve has returned, once CRIU, too, has ended well:
// a pre-dump and a dump that fail close the conversation like any other
// (criu/cr-dump.c, cr_pre_dump_finish and cr_dump_finish). From now on the
// index is the page map of that round.
//
// It returns the pages which rounds before have stored and which do not exist
// any more, or exist without their content having been sent. The index counts
// them as not stored, so the destination must drop them or keep them out of
// what is restored. An error wraps ErrState: the round is not the index's last.
func (x *Index) Commit(r *Round) (gone map[pagestream.Space][]pagestream.Range, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state != inRound || x.round != r {
		return nil, fmt.Errorf("commit a round while it is %s: %w", x.state, ErrState)
	}
	x.storeSent()
	held := make(map[pagestream.Space][]pagestream.Range, len(r.Map))
	for space, entries := range r.Map {
		held[space] = chosen(entries, func(e images.Entry) bool { return e.Present() || e.InParent() })
	}
	gone = make(map[pagestream.Space][]pagestream.Range)
	for space, stored := range x.stored {
		left := subtract(stored, held[space])
		if len(left) == 0 {
			continue
		}
		gone[space] = left
		if t := x.tables[space]; t != nil {
			for _, r := range left {
				t.Forget(r)
			}
		}
	}
	x.held = held
	x.stored = make(map[pagestream.Space][]pagestream.Range, len(held))
	for space, ranges := range held {
		x.stored[space] = ranges
	}
	x.state, x.round = consistent, nil
	return gone, nil
}

// Fail ends a round of which CRIU or anything else failed. Before any round, or
// after one, it makes the next one send everything.
func (x *Index) Fail() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fail()
}

// fail is Fail with x.mu held.
func (x *Index) fail() {
	x.storeSent()
	x.state, x.round = broken, nil
	clear(x.held)
	for _, t := range x.tables {
		t.Release()
	}
	clear(x.tables)
}

// storeSent counts what the round under way has sent as stored.
func (x *Index) storeSent() {
	if x.round == nil {
		return
	}
	for space, entries := range x.round.Map {
		x.stored[space] = union(x.stored[space], chosen(entries, images.Entry.Present))
	}
}

// parent is what the last committed round left of a space. No parent is told
// apart from one without pages, as CRIU does.
func (x *Index) parent(space pagestream.Space) ([]pagestream.Range, bool) {
	if x == nil {
		return nil, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	held, ok := x.held[space]
	return held, ok
}

// table remembers what was sent of shared memory: named, if it is not nil, from
// now on. Nil means that nothing does.
func (x *Index) table(space pagestream.Space, named *pagehash.Table) *pagehash.Table {
	if x == nil {
		return named
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if named == nil {
		named = x.tables[space]
	}
	if named == nil {
		named = pagehash.New(x.seed)
	}
	x.tables[space] = named
	return named
}

// Held returns the pages of a space that the destination holds of the last
// committed round. They are not the caller's to change.
func (x *Index) Held(space pagestream.Space) []pagestream.Range {
	held, _ := x.parent(space)
	return held
}
