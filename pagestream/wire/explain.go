package wire

import "fmt"

// Compression says with what the session compresses at the moment and why, for people; empty
// before it has sent anything that could be compressed. The streams choose each for themselves; it
// is that of the one that has sent the most.
func (s *Session) Compression() string {
	var text string
	var most uint64
	for _, st := range s.streams {
		now := st.observe.told.Load()
		if sent := st.flow.end(); now != nil && sent >= most {
			text, most = *now, sent
		}
	}
	return text
}

// tell makes what explain says known to other goroutines, when it may have changed.
func (o *observer) tell(r rung) {
	now := told{r, o.holds, o.now.Link, o.now.Sample >= incompressible}
	if o.toldOf == now {
		return
	}
	o.toldOf = now
	text := o.now.explain(r, o.holds)
	o.told.Store(&text)
}

// told is what an explanation depends on.
type told struct {
	rung           rung
	holds          bottleneck
	link           float64
	incompressible bool
}

// explain says why a rung was chosen.
func (c conditions) explain(chosen rung, holds bottleneck) string {
	why := holds.String()
	if c.Link > 0 && chosen != rungNone && holds == processors {
		why = "without it the link would be the bottleneck" // as it was before
	}
	if c.Link > 0 && holds != receiverSlow {
		why += fmt.Sprintf(", with %.1f MB/s a stream", c.Link/1e6)
	}
	p := c.Did[chosen]
	switch {
	case chosen == rungNone && c.Sample >= incompressible:
		return "none: the memory does not compress"
	case chosen == rungNone:
		return "none: " + why
	case !p.Known:
		return chosen.String() + ": it is tried"
	}
	return fmt.Sprintf("%s: %s, and it leaves %.2f at %.0f MB/s", chosen, why, p.Ratio, p.Speed/1e6)
}
