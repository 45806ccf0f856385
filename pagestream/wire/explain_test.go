package wire

import (
	"context"
	"strings"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestTheChoiceOfACodecIsExplainedByWhatHoldsTheStreamBack(t *testing.T) {
	var did [numRungs]performance
	for r := rungLZ4; r < numRungs; r++ {
		did[r] = performance{Known: true, Ratio: 0.25, Speed: 300e6}
	}
	for _, c := range []struct {
		name   string
		now    conditions
		holds  bottleneck
		chosen rung
		want   string
	}{
		{"incompressible", conditions{Sample: 1, Link: 12e6}, theLink, rungNone, "none: the memory does not compress"},
		{"a fast link", conditions{Sample: 0.5, Did: did}, processors, rungNone, "none: the processors are the bottleneck"},
		{"a slow link", conditions{Sample: 0.3, Link: 12.34e6, Did: did}, theLink, rungZstd,
			"zstd level 1: the link is the bottleneck, with 12.3 MB/s a stream, and it leaves 0.25 at 300 MB/s"},
		{"a slow link and idle processors", conditions{Sample: 0.3, Link: 12.34e6, Did: did}, theLink, rungHigher,
			"zstd level 3: the link is the bottleneck, with 12.3 MB/s a stream, and it leaves 0.25 at 300 MB/s"},
		{"a link that was slow", conditions{Sample: 0.3, Link: 12.34e6, Did: did}, processors, rungLZ4,
			"lz4: without it the link would be the bottleneck, with 12.3 MB/s a stream, and it leaves 0.25 at 300 MB/s"},
		{"a busy receiver", conditions{Sample: 0.3, Link: 12.34e6, Did: did}, receiverSlow, rungNone, "none: the receiver is the bottleneck"},
		{"little processor", conditions{Sample: 0.3, Did: did}, processors, rungLZ4, "lz4: the processors are the bottleneck, and it leaves 0.25 at 300 MB/s"},
		{"not known", conditions{Sample: 0.3}, processors, rungLZ4, "lz4: it is tried"},
	} {
		if got := c.now.explain(c.chosen, c.holds); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestASessionSaysWhatItCompressesWith(t *testing.T) {
	c := newCluster(t)
	s := c.dial(c.options(c.listen(to(newMemory())).Addr()))
	if got := s.Compression(); got != "" {
		t.Errorf("before anything is sent: %q", got)
	}
	data := make([]byte, MaxData)
	fillRandom(data)
	if err := s.Stream(0).Pages(space, 0, data); err != nil {
		t.Fatal(err)
	}
	if got := s.Compression(); got != "none: the memory does not compress" {
		t.Errorf("of random bytes: %q", got)
	}
	fillText(data)
	for range 2 * sampleRarely / MaxData {
		if err := s.Stream(0).Pages(space, 16*pagestream.PageSize, data); err != nil {
			t.Fatal(err)
		}
	}
	// With which depends on how busy the machine is.
	if got := s.Compression(); !strings.Contains(got, ": ") || strings.Contains(got, "does not compress") {
		t.Errorf("of text: %q", got)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}
