package wire

import (
	"bytes"
	"testing"

	"godwit.dev/godwit/pagestream"
)

// A codec and a level may change with each frame: what arrives is the same, and the peer needs to know nothing of levels.
func TestPagesArriveWhateverRungsTheirFramesGoWith(t *testing.T) {
	c := newCluster(t)
	m := newMemory()
	s := c.dial(c.options(c.listen(to(m)).Addr()))
	st := s.Stream(0)
	text := make([]byte, 64*pagestream.PageSize)
	fillText(text)
	sent := make(map[uint64][]byte)
	for i := range 8 * int(numRungs) {
		want := rung(i*3) % numRungs
		st.observe.now = conditions{Sample: 0.5, Transmit: 1e9, CPU: 1, Streams: 1, Idle: 9, Link: 1e6, Current: want}
		for r := range numRungs {
			st.observe.now.Slower[r] = r != want
			st.observe.now.Did[r] = performance{Known: true, Ratio: 0.5 - float64(r)/10, Speed: 1e9}
		}
		st.observe.unsampled = 0
		st.observe.trials, st.observe.triedAt = firstTrials, st.observe.clock // or a frame goes with what is to be tried again, by the time that has passed
		before := s.Stats()
		page := text[i*pagestream.PageSize:][: 32*pagestream.PageSize : 32*pagestream.PageSize]
		at := uint64(i) * 1 << 20
		if err := st.Pages(space, at, page); err != nil {
			t.Fatal(err)
		}
		sent[at] = page
		if after := s.Stats(); want == rungHigher && after.FramesZstd != before.FramesZstd+1 || want == rungNone && after.FramesPlain != before.FramesPlain+1 {
			t.Errorf("frame %d does not go with %s: %+v after %+v", i, want, after, before)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for at, pages := range sent {
		for p := 0; p < len(pages); p += pagestream.PageSize {
			if !bytes.Equal(m.pages[at+uint64(p)], pages[p:p+pagestream.PageSize]) {
				t.Fatalf("the page at %#x is another one", at+uint64(p))
			}
		}
	}
}
