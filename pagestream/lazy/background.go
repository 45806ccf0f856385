package lazy

import "time"

// childTurn: of so many steps one goes to a child while there is a process that CRIU
// made. Many a child lives only until it calls exec.
const childTurn = 16

// fill fills in a batch of one memory, if CRIU has restored all of them: before that
// some areas are not registered, and what is filled in there is lost. It does so when the
// container runs, as the store gives nothing back before; without a keeper nobody would say.
// What processes fault near comes first.
func (s *server) fill() (res result, worked bool, err error) {
	if worked, err := s.fillForemost(); worked || err != nil {
		return filled, worked, err
	}
	if !s.finished || !s.ready || !s.runs && s.sock >= 0 || len(s.order) == 0 {
		return filled, false, nil
	}
	now := time.Now()
	if now.Before(s.pause) {
		return paced, false, nil
	}
	if !s.haste.is(now) {
		s.prioritise(false)
	}
	if err := s.beginFilling(); err != nil {
		return filled, false, err
	}
	among := s.turns()
	if res, worked, err = s.fillOneOf(among, (*memory).fillNear); worked || err != nil || res != filled {
		return res, worked, err
	}
	return s.fillOneOf(among, (*memory).fillOn)
}

// turns are the memories among which one is filled in now.
func (s *server) turns() []*memory {
	roots := 0
	for roots < len(s.order) && !s.order[roots].forked {
		roots++
	}
	if s.steps++; roots > 0 && s.steps%childTurn != 0 {
		return s.order[:roots]
	}
	return s.order
}

// fillOneOf has a step fill in a batch of the first memory, in turns, in which it can.
func (s *server) fillOneOf(among []*memory, step func(*memory) (result, error)) (res result, worked bool, err error) {
	for range among {
		s.turn++
		m := among[s.turn%len(among)]
		if m.done.left == 0 || m.dead {
			continue
		}
		left, began := m.done.left, time.Now()
		r, err := step(m)
		if err != nil {
			return r, true, err
		}
		if r == elsewhere {
			continue
		}
		s.rest(began, left-m.done.left)
		switch r {
		case filled:
			return filled, true, nil
		case gone:
			m.dead = true
			return filled, true, nil
		}
		res = r // let another one have the turn
	}
	return res, false, nil
}

// rest has the background pause after it has filled in so many pages.
func (s *server) rest(began time.Time, pages uint64) {
	now := time.Now()
	s.pause = now.Add(s.haste.work(began, now))
	if s.cfg.Rate > 0 {
		s.pause = later(s.pause, now.Add(time.Duration(pages*pageSize)*time.Second/time.Duration(s.cfg.Rate)))
	}
}

// later is the later of two moments.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// beginFilling does, once, what the background needs and no fault does.
func (s *server) beginFilling() error {
	if s.filling {
		return nil
	}
	s.filling = true
	if !s.runs { // the keeper has gone without having said so
		return nil
	}
	return s.release()
}

// fillOn fills in up to a batch from where the background has come to.
func (m *memory) fillOn() (result, error) {
	if _, all := m.source.from.(local); all {
		return m.fillBySlot()
	}
	return m.fillByNumber()
}

// fillBySlot goes by the order in which the store has the pages: so what it can give back
// becomes free one after the other, however the rounds have brought it.
func (m *memory) fillBySlot() (result, error) {
	m.source.sort()
	for ; m.piece < len(m.source.bySlot); m.piece++ {
		p := m.source.pieces[m.source.bySlot[m.piece]]
		end := p.first + p.pages
		if m.cursor < p.first || m.cursor >= end {
			m.cursor = p.first
		}
		page := m.done.next(m.cursor, end)
		if page == end {
			continue
		}
		n, res, err := m.fillPiece(p, page, end)
		m.cursor = page + n
		return res, err
	}
	m.piece, m.cursor = 0, 0 // pages behind may have been put off
	return filled, nil
}

// fillByNumber goes by the pages' numbers: where pages come from the source they come in
// that order.
func (m *memory) fillByNumber() (result, error) {
	page := m.fillable(m.cursor, m.source.pages)
	if page == m.source.pages {
		if m.cursor == 0 {
			return elsewhere, nil
		}
		m.cursor = 0 // pages behind may have been put off
		return filled, nil
	}
	for m.source.pieces[m.piece].first > page {
		m.piece = 0
	}
	for p := m.source.pieces[m.piece]; page >= p.first+p.pages; p = m.source.pieces[m.piece] {
		m.piece++
	}
	p := m.source.pieces[m.piece]
	n, res, err := m.fillPiece(p, page, p.first+p.pages)
	m.cursor = page + n
	return res, err
}
