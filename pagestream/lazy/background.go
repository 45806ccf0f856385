package lazy

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
