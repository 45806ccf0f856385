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
func (o *observer) tell(c codec) {
	if o.toldOf == (told{c, o.now.Link, o.now.Sample >= incompressible}) {
		return
	}
	o.toldOf = told{c, o.now.Link, o.now.Sample >= incompressible}
	text := o.now.explain(c)
	o.told.Store(&text)
}

// told is what an explanation depends on.
type told struct {
	codec          codec
	link           float64
	incompressible bool
}

// explain says why a codec was chosen.
func (c conditions) explain(chosen codec) string {
	held := "the processors are the bottleneck"
	if c.Link > 0 {
		held = fmt.Sprintf("the link is the bottleneck, with %.1f MB/s a stream", c.Link/1e6)
	}
	p := [numCodecs]performance{codecLZ4: c.LZ4, codecZstd: c.Zstd}[chosen]
	switch {
	case chosen == codecNone && c.Sample >= incompressible:
		return "none: the memory does not compress"
	case chosen == codecNone:
		return "none: " + held
	case !p.Known:
		return chosen.String() + ": it is tried"
	}
	return fmt.Sprintf("%s: %s, and it leaves %.2f at %.0f MB/s", chosen, held, p.Ratio, p.Speed/1e6)
}
