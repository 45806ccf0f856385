package wire

// compress replaces the body by its compressed form if that is worth it, and notes what it took.
func (s *Stream) compress(h *header, body *[][]byte, t *transmission) error {
	if h.kind == frameDeltas {
		t.asItIs = true // short already, and another kind of data than the one that is measured
		return nil
	}
	t.rung = s.observe.rung(*body, h.raw)
	t.asItIs = s.observe.asItIs
	trial, due := s.observe.trialDue(t.rung)
	if t.rung == rungNone && !due {
		return nil
	}
	src := s.oneAfterTheOther(*body)
	var tried int
	if due {
		packed, err := s.pack(trial, src, &t.compressing)
		if err != nil {
			return err
		}
		tried = len(packed)
		if t.rung == rungNone {
			s.usePacked(h, body, trial, packed)
			return nil
		}
	}
	packed, err := s.pack(t.rung, src, &t.compressing)
	if err != nil {
		return err
	}
	if due && tried > 0 && len(packed) > 0 {
		s.observe.compared(trial, tried, t.rung, len(packed))
	}
	s.usePacked(h, body, t.rung, packed)
	return nil
}

// oneAfterTheOther is the pieces of a body without gaps between them.
func (s *Stream) oneAfterTheOther(body [][]byte) []byte {
	if len(body) == 1 {
		return body[0]
	}
	s.joined = s.joined[:0]
	for _, piece := range body {
		s.joined = append(s.joined, piece...)
	}
	return s.joined
}

// pack compresses a body and tells the observer. It returns nil if that is not worth it.
func (s *Stream) pack(r rung, src []byte, took *effort) ([]byte, error) {
	watch := startWatch()
	packed, err := s.encoder.encode(r, src)
	if err != nil {
		return nil, err
	}
	effort := watch.stop()
	took.add(effort)
	size := len(packed)
	if packed == nil {
		size = len(src)
	}
	s.observe.compressed(r, len(src), size, effort.cpu)
	return packed, nil
}

// usePacked has a frame carry a compressed body, if there is one.
func (s *Stream) usePacked(h *header, body *[][]byte, r rung, packed []byte) {
	if packed == nil {
		return
	}
	h.codec, h.body = r.codec(), uint32(len(packed))
	s.pieces = append(s.pieces[:0], packed)
	*body = s.pieces
}
