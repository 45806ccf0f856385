package precopy

import (
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/track"
)

// dirtied makes pages of the test's memory dirty without a change.
func (s *scripted) dirtied(pages ...uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pages {
		s.dirty[p] = true
	}
}

// A page that was written and has the content that the destination has is not sent from its
// third copy on: the first is not remembered.
func TestPagesThatHaveTheirOldContentAreNotSentAgain(t *testing.T) {
	const pages = 256
	tracker := newScripted(t, pages)
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: tracker, Session: s})
	copyRound := func(number int, want uint64) RoundStat {
		stat, err := r.round(t.Context(), number)
		if err != nil || stat.Copied.Sent != want {
			t.Fatalf("round %d sends %d pages, want %d: %v", number, stat.Copied.Sent, want, err)
		}
		return stat
	}
	copyRound(0, pages)
	tracker.dirtied(1, 2, 3)
	copyRound(1, 3)
	tracker.dirtied(1, 2, 3)
	tracker.writePage(2)
	if stat := copyRound(2, 1); stat.Copied.Unchanged != 2 {
		t.Errorf("%d pages count as unchanged, want 2", stat.Copied.Unchanged)
	}
	tracker.dirtied(1, 2, 3, 9)
	tracker.writePage(3)
	r.state = Converged
	stat, err := r.Final(t.Context())
	if err != nil || stat.Copied.Sent != 2 || stat.Copied.Unchanged != 2 {
		t.Errorf("the last copy: %+v, %v; want page 3, which changed, and 9, which is new", stat.Copied, err)
	}
	if bad := s.differing(self, tracker.start, tracker.mem); len(bad) > 0 {
		t.Errorf("%d pages differ", len(bad))
	}
	s.check(t)
}

func TestStopAndCopyRemembersNothing(t *testing.T) {
	r := newTestRounds(t, Config{Tracker: newScripted(t, 16), Session: newSink(1)})
	if _, err := r.Final(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(r.resent.tables); n > 0 {
		t.Errorf("%d tables after a copy that is the only one", n)
	}
}

func TestNothingIsKnownOfAProcessThatEndedOrIsAnotherProgram(t *testing.T) {
	r, err := newResent(true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	for name, found := range map[string]track.Round{
		"ended": {Gone: []pagestream.Space{self}},
		"exec":  {Processes: []track.ProcessRound{{Process: track.Process{Space: self}, New: true}}},
	} {
		r.sift([]*area{{space: self}}, track.Round{})
		before := r.tables[self]
		r.sift([]*area{{space: self}}, found)
		if after := r.tables[self]; after == before {
			t.Errorf("%s: what was sent of it is still known", name)
		}
	}
}

// If two areas of one copy are of the same space, it is not known which content the
// destination has in the end.
func TestASpaceThatIsCopiedTwiceAtOnceIsForgotten(t *testing.T) {
	r, err := newResent(true)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	one := pagestream.Space{Kind: pagestream.Process, ID: 1}
	two := pagestream.Space{Kind: pagestream.Process, ID: 2}
	areas := func(spaces ...pagestream.Space) []*area {
		var round track.Round
		for _, s := range spaces {
			round.Processes = append(round.Processes, track.ProcessRound{Process: track.Process{Space: s}})
		}
		return processAreas(memoriesOf(round))
	}
	r.sift(areas(one, two), track.Round{})
	again := areas(one, two, one)
	r.sift(again, track.Round{})
	if again[0].sift != nil || again[1].sift == nil || again[2].sift != nil || r.tables[one] != nil {
		t.Error("pages of a space that is copied twice at once are sifted")
	}
}
