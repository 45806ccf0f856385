package main

import (
	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/test/figure"
)

// report is what the bench leaves behind.
type report struct {
	Figures []figure.Figure `json:"figures"`
	Moves   []moved         `json:"moves"`
}

// report judges the moves.
func (b *bench) report() report {
	engines := []string{writeProtect, softDirty}
	r := report{Moves: b.moves}
	for _, e := range engines {
		all, later := sentPerWritten(b.moves, e)
		r.Figures = append(r.Figures,
			figure.Figure{Name: e + ": sent in the rounds / pages to be sent", Value: all, Limit: 1.1},
			figure.Figure{Name: e + ": the same without the first copy", Value: later, Limit: 1.1})
	}
	stood := func(m moved) float64 { return m.Stood }
	r.Figures = append(r.Figures, figure.Figure{
		Name:  "stood still before the freeze, write-protect / soft-dirty",
		Value: of(b.moves, writeProtect, stood) / of(b.moves, softDirty, stood), Limit: 0.1,
	})
	downtime := func(m moved) float64 { return m.Downtime }
	for _, e := range engines {
		r.Figures = append(r.Figures, figure.Figure{
			Name:  "downtime, " + e + " / runc by hand",
			Value: of(b.moves, e, downtime) / of(b.moves, runcByHand, downtime), Limit: 0.5,
		})
	}
	var damaged uint64
	for _, m := range b.moves {
		damaged += m.Lost + m.Wrong
	}
	r.Figures = append(r.Figures, figure.Figure{Name: "lost writes and wrong values", Value: float64(damaged)})
	return r
}

// of is the median of a value over the timed moves of one way.
func of(moves []moved, way string, value func(moved) float64) float64 {
	var values []float64
	for _, m := range moves {
		if m.Way == way && m.Pages == nil {
			values = append(values, value(m))
		}
	}
	return median(values)
}

// sentPerWritten is how many bytes an engine sent for each that a witness saw there was to send: in all rounds, and in those
// after the first.
func sentPerWritten(moves []moved, engine string) (all, later float64) {
	var sent, written, sentLater, writtenLater uint64
	for _, m := range moves {
		if m.Way != engine {
			continue
		}
		for i, pages := range m.Pages {
			sent, written = sent+m.Rounds[i].WireBytes, written+pages*pagestream.PageSize
			if i > 0 {
				sentLater, writtenLater = sentLater+m.Rounds[i].WireBytes, writtenLater+pages*pagestream.PageSize
			}
		}
	}
	return float64(sent) / float64(written), float64(sentLater) / float64(writtenLater)
}
