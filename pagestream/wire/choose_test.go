package wire

import "testing"

func TestTheRungIsChosenByWhatItGains(t *testing.T) {
	const gigabit = 125e6
	lz4 := performance{Known: true, Ratio: 0.4, Speed: 700e6}
	zstd := performance{Known: true, Ratio: 0.28, Speed: 250e6}
	higher := performance{Known: true, Ratio: 0.265, Speed: 150e6}
	useless := performance{Known: true, Ratio: 0.97, Speed: 700e6}
	did := [numRungs]performance{rungLZ4: lz4, rungZstd: zstd}
	all := did
	all[rungHigher] = higher
	for _, c := range []struct {
		name string
		in   conditions
		want rung
	}{
		{"incompressible on a slow link", conditions{Sample: 1, Link: 1e6, Did: did}, rungNone},
		{"sample at the limit", conditions{Sample: incompressible, Link: 1e6, Did: did}, rungNone},
		{"nothing known", conditions{Sample: 0.5}, rungLZ4},
		{"zstd not known", conditions{Sample: 0.5, Did: [numRungs]performance{rungLZ4: lz4}}, rungZstd},
		{"not held back", conditions{Sample: 0.5, Did: did}, rungNone},
		{"fast link", conditions{Sample: 0.5, Link: 1e9, Did: did}, rungNone},
		{"a quarter of a gigabyte", conditions{Sample: 0.5, Link: 250e6, Did: did}, rungLZ4},
		{"a quarter of a gigabit for each stream", conditions{Sample: 0.5, Link: gigabit / 4, Did: did}, rungZstd},
		{"slow link, half a processor", conditions{Sample: 0.5, Link: gigabit / 4, CPU: 0.5, Did: did}, rungZstd},
		{"gigabit, a tenth of a processor", conditions{Sample: 0.5, Link: gigabit, CPU: 0.1, Did: did}, rungNone},
		{"the sample deceives", conditions{Sample: 0.5, Link: 1e6, Did: [numRungs]performance{rungLZ4: useless, rungZstd: useless}}, rungNone},
		{"lz4 is useless, zstd is not", conditions{Sample: 0.9, Link: 1e6, Did: [numRungs]performance{rungLZ4: useless, rungZstd: zstd}}, rungZstd},
		{"encryption is the bottleneck", conditions{Sample: 0.2, Transmit: 100e6,
			Did: [numRungs]performance{rungZstd: zstd, rungLZ4: {Known: true, Ratio: 0.1, Speed: 1e9}}}, rungLZ4},
		{"a little better does not make it change", conditions{Sample: 0.5, Link: 100e6, Current: rungLZ4,
			Did: [numRungs]performance{rungLZ4: lz4, rungZstd: {Known: true, Ratio: 0.385, Speed: 600e6}}}, rungLZ4},
		{"much better does", conditions{Sample: 0.5, Link: 100e6, Current: rungLZ4,
			Did: [numRungs]performance{rungLZ4: lz4, rungZstd: {Known: true, Ratio: 0.3, Speed: 600e6}}}, rungZstd},

		{"a busy receiver, though nothing else is", conditions{Sample: 0.5, Receiver: 0.1, Did: did, Current: rungZstd}, rungNone},
		{"a receiver with half a processor, over a slow link", conditions{Sample: 0.5, Link: 60e6, Receiver: 0.5, Did: did}, rungZstd},
		{"a receiver with no time for zstd over the same", conditions{Sample: 0.5, Link: 100e6, Receiver: 0.1, Did: did}, rungLZ4},
		{"what was shown to be slower", conditions{Sample: 0.5, Link: 30e6, Did: did, Slower: [numRungs]bool{rungZstd: true}}, rungLZ4},
		{"nothing was, though it was predicted", conditions{Sample: 0.5, Did: did, Slower: [numRungs]bool{rungNone: true}, Current: rungNone}, rungLZ4},

		{"a slow link and idle processors", conditions{Sample: 0.5, Link: 10e6, Idle: 1.5, Did: all, Current: rungZstd}, rungHigher},
		{"the same with four streams", conditions{Sample: 0.5, Link: 10e6, Idle: 1.5, Streams: 4, Did: all, Current: rungZstd}, rungHigher},
		{"four streams, and half a processor is idle", conditions{Sample: 0.5, Link: 10e6, Idle: 0.5, Streams: 4, Did: all, Current: rungZstd}, rungZstd},
		{"no idle processors", conditions{Sample: 0.5, Link: 10e6, Did: all, Current: rungZstd}, rungZstd},
		{"not known how many are idle", conditions{Sample: 0.5, Link: 10e6, Idle: -1, Did: all, Current: rungZstd}, rungZstd},
		{"others need the processors now", conditions{Sample: 0.5, Link: 10e6, Idle: 0.05, Did: all, Current: rungHigher}, rungZstd},
		{"it has what it needs, and little more is idle", conditions{Sample: 0.5, Link: 10e6, Idle: 0.2, Did: all, Current: rungHigher}, rungHigher},
		{"the link does not hold it back", conditions{Sample: 0.5, Idle: 2, Did: all, Current: rungHigher}, rungNone},
		{"the higher level gains nothing", conditions{Sample: 0.5, Link: 10e6, Idle: 2, Current: rungZstd,
			Did: [numRungs]performance{rungLZ4: lz4, rungZstd: zstd, rungHigher: {Known: true, Ratio: 0.279, Speed: 150e6}}}, rungZstd},
	} {
		if c.in.CPU == 0 {
			c.in.CPU = 1
		}
		if c.in.Transmit == 0 {
			c.in.Transmit = 1.2e9
		}
		if c.in.Streams == 0 {
			c.in.Streams = 1
		}
		if got := choose(c.in); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestOnlyWhatMayComeToBeChosenIsTried(t *testing.T) {
	did := [numRungs]performance{
		rungLZ4: {Known: true, Ratio: 0.4, Speed: 400e6}, rungZstd: {Known: true, Ratio: 0.3, Speed: 200e6},
	}
	for _, c := range []struct {
		name string
		in   conditions
		r    rung
		want bool
	}{
		{"zstd over a fast link", conditions{}, rungZstd, false},
		{"zstd instead of lz4 over a slower one", conditions{Link: 100e6, Current: rungLZ4}, rungZstd, true},
		{"a higher level over a slow one with idle processors", conditions{Link: 10e6, Idle: 2, Current: rungZstd}, rungHigher, true},
		{"a higher level over a slow one without", conditions{Link: 10e6, Current: rungZstd}, rungHigher, false},
		{"a higher level over a fast one", conditions{Idle: 2}, rungHigher, false},
	} {
		c.in.Sample, c.in.CPU, c.in.Transmit, c.in.Streams, c.in.Did = 0.5, 1, 1.2e9, 2, did
		if got := c.in.hopeful(c.r); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestAutoCompressesForASlowLinkAndNotForNothing(t *testing.T) {
	text, random := make([]byte, 64<<10), make([]byte, 64<<10)
	fillText(text)
	fillRandom(random)
	for name, test := range map[string]struct {
		data     []byte
		frames   int
		compress bool
	}{"text": {text, 60, true}, "random": {random, 20, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits most of the time
			c := newCluster(t)
			o := c.options(c.listen(to(newMemory())).Addr())
			o.Streams, o.Bandwidth = 1, 512<<10
			s := c.dial(o)
			for range test.frames {
				if err := s.Stream(0).Pages(space, 0, test.data); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			stats := s.Stats()
			if compressed := stats.WireBytes < stats.RawBytes*3/4; compressed != test.compress {
				t.Errorf("%+v", stats)
			}
		})
	}
}
