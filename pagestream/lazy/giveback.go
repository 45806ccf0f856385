package lazy

import (
	"errors"
	"fmt"
	"os"

	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
)

// While pages are filled in, the store gives them back, so that the node has the pod's
// memory about once. A page goes through three steps, in this order: it is in place in
// every process that has it; the store's note says that it is given back; its memory is
// given back. A server that dies between two of them leaves a page that is held twice,
// and the next takes the note's pages as done wherever it finds a process.
//
// Before the keeper says that the container runs (Keeper.Release), the store is the only
// copy that a restore can be made from again: nothing is given back until then, and the
// background does not fill in either.

// ErrGivenBack is wrapped by the error of a server that is to fill in pages which the store
// has given back: they were in place in processes that are not there any more.
var ErrGivenBack = errors.New("the store has given pages back that are wanted again")

// giver gives back what the ledger of a source says.
type giver struct {
	ledger *ledger
	hoard  *hoard
	giving *store.Giving
}

// release has the store of a container that runs given back from now on. A server that
// follows another does so before it takes any memory over.
func (s *server) release() error {
	if s.released {
		return nil
	}
	s.released = true
	for _, src := range s.sources {
		if src.space == nil {
			continue
		}
		giving, err := s.cfg.Reader.OpenGiving(src.space)
		if errors.Is(err, store.ErrFull) {
			s.log.Warn("fault server: the store has no room to note what it gives back; it is given back at the end", "error", err)
			continue
		}
		if err != nil {
			return err
		}
		src.giver = &giver{newLedger(src, giving.Units(), giving.Given), newHoard(giving.Units(), giving.Given), giving}
		src.giver.ledger.touch(0, src.pages)
	}
	return nil
}

// giveBack gives back what no process needs any more.
func (s *server) giveBack() error {
	if !s.released || !s.finished || !s.ready {
		return nil
	}
	if !s.trimmed {
		s.trimmed = true
		s.trimImages()
	}
	for _, src := range s.sources {
		if src.giver == nil {
			continue
		}
		var done []*bitmap
		if len(src.giver.ledger.touched) > 0 {
			for _, m := range s.memories {
				if m.source == src {
					done = append(done, &m.done)
				}
			}
		}
		src.giver.hoard.add(src.giver.ledger.take(done))
		for _, r := range src.giver.hoard.ripe() {
			if err := src.giver.giving.Give(r.first, r.n); err != nil {
				return err
			}
		}
	}
	s.count()
	return nil
}

// count notes how much memory store and processes have by now, as far as this server knows.
func (s *server) count() {
	p := &s.progress
	p.Held = 0
	placed := uint64(0)
	for _, src := range s.sources {
		placed += src.placed
		if src.giver != nil {
			p.Held += src.giver.giving.Held()
		}
	}
	p.Peak = max(p.Peak, p.Held+placed)
}

// trimImages frees CRIU's pages files that it has read and nobody needs any more: shared
// memory, and what it restores by itself. One that cannot be freed goes with the store.
func (s *server) trimImages() {
	dir := s.cfg.Reader.ImagesDir(s.cfg.Container)
	maps, err := images.ListPagemaps(dir)
	if err != nil {
		s.log.Warn("fault server: the images are kept", "error", err)
		return
	}
	for _, l := range maps {
		if src := s.sources[int32(l.ID)]; !l.Shared && src != nil && len(src.files) > 0 {
			continue // pages are filled in from it
		}
		id, err := images.ReadPagesID(l.Path)
		if err == nil {
			err = os.Truncate(images.PagesPath(dir, id), 0)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("fault server: a pages file is kept", "pagemap", l.Path, "error", err)
		}
	}
}

// closeGivers ends the giving back.
func (s *server) closeGivers() {
	for _, src := range s.sources {
		if src.giver == nil {
			continue
		}
		if err := src.giver.giving.Close(); err != nil {
			s.log.Warn("fault server: the note of what was given back", "error", err)
		}
		src.giver = nil
	}
}

// mark counts pages as done.
func (m *memory) mark(first, n uint64) {
	m.done.set(first, n)
	if g := m.source.giver; g != nil && n > 0 {
		g.ledger.touch(first, n)
	}
}

// given says whether nobody needs a page any more, so that the store may have given it
// back. That is an error for a memory in which it is not in place.
func (m *memory) given(number uint64) (bool, error) {
	g := m.source.giver
	if g == nil || !g.ledger.free.has(number) {
		return false, nil
	}
	if !m.done.has(number) {
		return true, fmt.Errorf("page %#x of process %d (memory %d): %w", m.source.address(number), m.source.pid, m.id, ErrGivenBack)
	}
	return true, nil
}
