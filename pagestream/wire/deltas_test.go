package wire

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
)

// deltaSession is a session over which pages of content have been stored, from address 0 on.
func deltaSession(t *testing.T, content []byte) (*Session, *memory) {
	t.Helper()
	c := newCluster(t)
	m := newMemory()
	s := c.dial(c.options(c.listen(to(m)).Addr()))
	if err := s.Stream(0).Pages(space, 0, content); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s, m
}

// record is that of a page.
func record(t *testing.T, base, page []byte) []byte {
	t.Helper()
	r, ok := delta.Append(nil, base, page, delta.MaxRecord)
	if !ok {
		t.Fatal("no delta of the page")
	}
	return r
}

func TestDeltasChangeWhatIsStored(t *testing.T) {
	const pages = 5
	base := make([]byte, pages*pagestream.PageSize)
	fillRandom(base)
	clear(base[2*pagestream.PageSize : 3*pagestream.PageSize]) // arrives as a page of zeros
	s, m := deltaSession(t, base)
	changed := bytes.Clone(base)
	var records []byte
	for at := 0; at < len(base); at += pagestream.PageSize {
		copy(changed[at+at/64:], "changed")
		records = append(records, record(t, base[at:at+pagestream.PageSize], changed[at:at+pagestream.PageSize])...)
	}
	runs := []pagestream.Range{{Start: 0, Pages: 3}, {Start: 3 * pagestream.PageSize, Pages: 2}}
	if err := s.Stream(1).Deltas(space, runs, records); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for p := range uint64(pages) {
		at := p * pagestream.PageSize
		if !bytes.Equal(m.pages[at], changed[at:at+pagestream.PageSize]) {
			t.Errorf("page %d is another one", p)
		}
	}
	if st := s.Stats(); st.DeltaPages != pages || st.DeltaBytes != uint64(len(records)) {
		t.Errorf("%d pages, %d bytes of deltas are counted, want %d and %d", st.DeltaPages, st.DeltaBytes, pages, len(records))
	}
}

func TestDeltasThatDoNotFitEndTheSessionAndStoreNothing(t *testing.T) {
	base := make([]byte, pagestream.PageSize)
	fillRandom(base)
	changed := bytes.Clone(base)
	changed[9] ^= 1
	other := bytes.Clone(base)
	other[4000] ^= 1
	otherChanged := bytes.Clone(changed)
	otherChanged[4000] ^= 1
	good := record(t, base, changed)
	one := []pagestream.Range{{Start: 0, Pages: 1}}
	for _, c := range []struct {
		name    string
		runs    []pagestream.Range
		records []byte
		want    string
	}{
		{"another base", one, record(t, other, otherChanged), "delta against another content"},
		{"a page that never came", []pagestream.Range{{Start: 1 << 30, Pages: 1}}, good, "never came"},
		{"fewer records than pages", []pagestream.Range{{Start: 0, Pages: 2}}, good, "never came"},
		{"more records than pages", one, append(bytes.Clone(good), good...), "behind the last delta"},
		{"half a record", one, good[:len(good)-1], "malformed delta"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, m := deltaSession(t, base)
			if err := s.Stream(0).Deltas(space, c.runs, c.records); err != nil {
				t.Fatal(err)
			}
			err := s.Flush(context.Background())
			if remote := (*RemoteError)(nil); !errors.As(err, &remote) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the sender hears %v, want %q", err, c.want)
			}
			if got := m.end(t); got == nil {
				t.Error("the receiver hears of a clean end")
			}
			if c.name != "more records than pages" && !bytes.Equal(m.pages[0], base) {
				t.Error("the page was changed")
			}
		})
	}
}

func TestDeltasOutOfBoundsAreNotSent(t *testing.T) {
	s, _ := deltaSession(t, make([]byte, pagestream.PageSize))
	long := pagestream.Range{Start: 0, Pages: maxDeltaPages}
	for name, c := range map[string]struct {
		runs    []pagestream.Range
		records int
	}{
		"too many pages":   {[]pagestream.Range{long, {Start: long.End(), Pages: 1}}, 10},
		"too many records": {[]pagestream.Range{long}, maxDeltas + 1},
		"a forged range":   {[]pagestream.Range{{Start: 0, Pages: 1 << 60}}, 10},
	} {
		if err := s.Stream(0).Deltas(space, c.runs, make([]byte, c.records)); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestAPeerThatDoesNotKnowDeltasGetsNone(t *testing.T) {
	s, _ := deltaSession(t, make([]byte, pagestream.PageSize))
	st := s.Stream(0)
	st.observe.bound = true
	if st.DeltaLimit() == 0 {
		t.Error("no deltas over a link that holds the stream back")
	}
	if !s.TakesContents() {
		t.Error("it is not said that the peer takes contents")
	}
	st.conn.features = featureDeltas
	if s.TakesContents() {
		t.Error("a peer that does not know contents is said to take them")
	}
	st.conn.features = 0
	if n := st.DeltaLimit(); n != 0 {
		t.Errorf("records of %d bytes are worth it, want none", n)
	}
	if err := st.Deltas(space, []pagestream.Range{{Start: 0, Pages: 1}}, make([]byte, delta.HeadSize)); !errors.Is(err, ErrMismatch) {
		t.Errorf("%v, want ErrMismatch", err)
	}
}

func TestDeltasThatWereNotAgreedUponAreRefused(t *testing.T) {
	r := &reception{receiver: bounded{t}}
	h := header{kind: frameDeltas, runs: 1, raw: delta.HeadSize, body: delta.HeadSize, space: space}
	if err := r.deliver(&h, table(data(0, 1)), make([]byte, delta.HeadSize)); !errors.Is(err, ErrProtocol) {
		t.Errorf("%v, want ErrProtocol", err)
	}
}

func TestFeaturesAreThoseThatBothSidesHave(t *testing.T) {
	for _, c := range []struct{ dialer, listener, both uint64 }{
		{0, featureDeltas, 0}, {featureDeltas, 0, 0}, {featureDeltas, featureDeltas | 1<<9, featureDeltas},
	} {
		a, b := thisNode("a"), thisNode("b")
		a.features, b.features = c.dialer, c.listener
		if _, both, err := negotiate(a, b); err != nil || both != c.both {
			t.Errorf("%#x and %#x: %#x, %v, want %#x", c.dialer, c.listener, both, err, c.both)
		}
	}
}

func TestRunTablesOfDeltasHaveNoZeroesAndFewPages(t *testing.T) {
	for _, c := range []struct {
		name  string
		table []byte
		ok    bool
	}{
		{"most", table(data(0, maxDeltaPages-1), data(1<<30, 1)), true},
		{"one more", table(data(0, maxDeltaPages), data(1<<30, 1)), false},
		{"zeros", table(data(0, 1), zeros(4096, 1)), false},
		{"only zeros", table(zeros(0, 1<<40)), false},
		{"wraps", table(data(4096, 1<<62)), false},
	} {
		if _, err := decodeDeltaRuns(nil, c.table); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, want ok %v", c.name, err, c.ok)
		}
	}
}

// epochOf is an epoch of a stream, in which so many bytes went.
func epochOf(bytes uint64, waited time.Duration) transmission {
	return transmission{wire: bytes, total: 100 * time.Millisecond, waited: waited, sealing: effort{time.Millisecond, time.Millisecond}}
}

func TestDeltasAreWorthItWhereTheLinkHoldsAStreamBack(t *testing.T) {
	o := newObserver(Auto, 1, MinWindow)
	if n := o.deltaLimit(); n != 0 {
		t.Errorf("before anything is known: %d bytes", n)
	}
	o.transmitted(epochOf(MinWindow, 90*time.Millisecond))
	if n := o.deltaLimit(); n != delta.MaxRecord {
		t.Errorf("of what does not compress: %d bytes, want %d", n, delta.MaxRecord)
	}
	o.now.Sample, o.now.Current = 0.3, rungZstd
	o.now.Did[rungZstd] = performance{Known: true, Ratio: 0.25}
	if n := o.deltaLimit(); n != pagestream.PageSize/4/deltaGain {
		t.Errorf("of what compresses to a quarter: %d bytes", n)
	}
	for range boundFor {
		o.transmitted(epochOf(MinWindow, 0))
	}
	if o.deltaLimit() == 0 {
		t.Error("a window of frames goes without waiting, so this many say nothing")
	}
	o.transmitted(epochOf(MinWindow, 0))
	if n := o.deltaLimit(); n != 0 {
		t.Errorf("the link is free: %d bytes", n)
	}
}

func TestALinkIsSlowIfItTakesMuchLessThanTheProcessorsSend(t *testing.T) {
	for _, c := range []struct {
		name    string
		now     conditions
		limited bool
		slow    bool
	}{
		{"nothing is held back", conditions{Transmit: 2e9, CPU: 1}, false, false},
		{"200 Mbit/s, two streams", conditions{Link: 12e6, Transmit: 2e9, CPU: 0.7}, false, true},
		{"1 Gbit/s, two streams", conditions{Link: 60e6, Transmit: 2e9, CPU: 0.7}, false, true},
		{"1 Gbit/s, a busy machine", conditions{Link: 60e6, Transmit: 2e9, CPU: 0.3}, false, true},
		{"a fast network", conditions{Link: 600e6, Transmit: 2e9, CPU: 0.7}, false, false},
		{"one machine that is busy", conditions{Link: 100e6, Transmit: 2e9, CPU: 0.3}, false, false},
		{"one machine that is much too busy", conditions{Link: 20e6, Transmit: 2e9, CPU: 0.1}, false, false},
		{"a limit on the bandwidth there", conditions{Link: 20e6, Transmit: 2e9, CPU: 0.1}, true, true},
	} {
		if got := c.now.slowLink(c.limited); got != c.slow {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func BenchmarkDeltas(b *testing.B) {
	const pages = 64
	c := newCluster(b)
	m := newMapped(b, 2*pages*pagestream.PageSize)
	s := c.dial(c.options(c.listen(to(m)).Addr()))
	base := make([]byte, pages*pagestream.PageSize)
	fillRandom(base)
	runs := make([]pagestream.Range, pages)
	for i := range runs {
		runs[i] = pagestream.Range{Start: uint64(2 * i * pagestream.PageSize), Pages: 1}
	}
	var records []byte
	for i := range pages {
		page := base[i*pagestream.PageSize : (i+1)*pagestream.PageSize]
		copy(m.memory[2*i*pagestream.PageSize:], page)
		changed := bytes.Clone(page)
		copy(changed[1000:], "32 bytes that have been changed.")
		records, _ = delta.Append(records, page, changed, delta.MaxRecord)
	}
	b.SetBytes(int64(len(base)))
	for b.Loop() {
		if err := s.Stream(0).Deltas(space, runs, records); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}
