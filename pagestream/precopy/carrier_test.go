package precopy

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/track"
)

// carried is a carrier over a scripted tracker: it sends what is dirty by itself,
// as a page server does.
type carried struct {
	*scripted
	to    *sink
	err   error
	stood time.Duration
	calls []int
}

// Collect is a mistake with a carrier.
func (c *carried) Collect(context.Context) (track.Round, error) {
	return track.Round{}, errors.New("the tracker was asked for a round")
}

func (c *carried) Processes() ([]track.Process, error) {
	return []track.Process{{PID: os.Getpid(), Space: self}}, nil
}

func (c *carried) Expect() uint64 { return uint64(len(c.mem)/pagestream.PageSize) + 100 }

func (c *carried) Carry(ctx context.Context, number int, done func(uint64)) (Carried, error) {
	c.calls = append(c.calls, number)
	if c.err != nil {
		return Carried{}, c.err
	}
	round, err := c.scripted.Collect(ctx)
	if err != nil {
		return Carried{}, err
	}
	var pages uint64
	for _, p := range round.Processes {
		for r := range pieces(p.Dirty) {
			buf := make([]byte, r.Bytes())
			if _, err := pagemap.ReadMemory(os.Getpid(), []pagestream.Range{r}, buf); err != nil {
				return Carried{}, err
			}
			if err := c.to.Stream(0).Runs(p.Space, []pagestream.Range{r}, buf); err != nil {
				return Carried{}, err
			}
			pages += r.Pages
			done(pages)
		}
	}
	return Carried{Pages: pages, Scan: c.stood, Stood: c.stood, Copied: CopyStats{Sent: pages}}, nil
}

// pieces cuts ranges to what a stream takes at once.
func pieces(ranges []pagestream.Range) iter.Seq[pagestream.Range] {
	const most = chunkBytes / pagestream.PageSize
	return func(yield func(pagestream.Range) bool) {
		for _, r := range ranges {
			for r.Pages > 0 {
				n := min(r.Pages, most)
				if !yield(pagestream.Range{Start: r.Start, Pages: n}) {
					return
				}
				r.Start, r.Pages = r.Start+n*pagestream.PageSize, r.Pages-n
			}
		}
	}
}

func TestRoundsOfACarrierEndInTheFrozenMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	s := newSink(2)
	c := &carried{scripted: newScripted(t, 3000), to: s, stood: time.Millisecond}
	var told []Progress
	r, err := New(Config{
		Tracker: c, Carrier: c, Session: s, Policy: Policy{DirtyLimit: 64 << 10},
		Progress: func(p Progress) { told = append(told, p); c.write(rng, 3) },
	})
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Run(t.Context())
	if err != nil || r.State() != Converged {
		t.Fatalf("%+v, %v", res.Decision, err)
	}
	for i, round := range res.Rounds {
		if round.Stood != time.Millisecond || c.calls[i] != i || round.Copied.Sent != round.Pages {
			t.Errorf("round %d: %+v", i, round)
		}
	}
	if res.Rounds[0].Pages != 3000 || s.flushes != len(res.Rounds) {
		t.Errorf("%d pages in the first round, %d flushes for %d rounds", res.Rounds[0].Pages, s.flushes, len(res.Rounds))
	}
	stat, err := r.Final(t.Context())
	if err != nil || stat.Copied.Sent != stat.Pages {
		t.Fatalf("%+v, %v", stat, err)
	}
	s.check(t)
	if bad := s.differing(self, c.start, c.mem); len(bad) > 0 {
		t.Errorf("%d pages differ", len(bad))
	}
	r.Close() // and with it the last report
	last := told[len(told)-1]
	if last.MemoryBytes != 3000*pagestream.PageSize || last.Bytes != (3000+sumAfterFirst(res)+stat.Pages)*pagestream.PageSize {
		t.Errorf("told of %d bytes of memory and %d copied", last.MemoryBytes, last.Bytes)
	}
}

func sumAfterFirst(res Result) (pages uint64) {
	for _, r := range res.Rounds[1:] {
		pages += r.Pages
	}
	return pages
}

func TestACarrierThatFailsBreaksTheRounds(t *testing.T) {
	s := newSink(1)
	lost := errors.New("CRIU is gone")
	c := &carried{scripted: newScripted(t, 10), to: s, err: lost}
	r := newTestRounds(t, Config{Tracker: c, Carrier: c, Session: s})
	if _, err := r.Run(t.Context()); !errors.Is(err, lost) || r.State() != Broken {
		t.Errorf("%v, %v", err, r.State())
	}
}

// nothingPrivate is a carrier for a pod that has shared memory alone.
type nothingPrivate struct{ *sharedPod }

func (c nothingPrivate) Processes() ([]track.Process, error) {
	round, err := c.sharedPod.Collect(context.Background())
	var processes []track.Process
	for _, p := range round.Processes {
		processes = append(processes, p.Process)
	}
	return processes, err
}

func (nothingPrivate) Expect() uint64 { return 0 }

func (nothingPrivate) Carry(context.Context, int, func(uint64)) (Carried, error) {
	return Carried{}, nil
}
