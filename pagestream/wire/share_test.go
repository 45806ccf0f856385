package wire

import (
	"testing"
	"time"
)

func TestAStreamThatSendsLittleCouldHaveAnEqualPartOfTheLink(t *testing.T) {
	s := newShares(3) // the third one has nothing to send
	at := time.Now()
	if got := s.note(0, 80, at); got != 80 {
		t.Errorf("alone: %g", got)
	}
	if got := s.note(1, 20, at); got != 50 {
		t.Errorf("beside one that has 80: %g, want 50", got)
	}
	if got := s.note(0, 80, at); got != 80 {
		t.Errorf("the other one: %g, want what it has", got)
	}
	if got := s.note(1, 20, at.Add(shareFresh)); got != 20 {
		t.Errorf("after the other one has ended: %g", got)
	}
	if got := (*shares)(nil).note(0, 7, at); got != 7 {
		t.Errorf("without others: %g", got)
	}
}
