package precopy

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"godwit.dev/godwit/pagestream"
)

func TestProgressTellsEveryRoundAndNeverTooOften(t *testing.T) {
	tracker, s := newScripted(t, 20000), newSink(2)
	rng := rand.New(rand.NewPCG(9, 9))
	s.fail = func(_ pagestream.Space, runs []pagestream.Range) error {
		tracker.write(rng, 2)
		time.Sleep(200 * time.Microsecond)
		return nil
	}
	var mu sync.Mutex // guards told and busy
	var told []Progress
	var at []time.Time
	r, err := New(Config{
		Tracker: tracker, Session: &serial{sink: s}, Policy: Policy{DirtyLimit: 256 << 10}, ProgressInterval: MinProgressInterval,
		Progress: func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			told, at = append(told, p), append(at, time.Now())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Final(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Close()
	last := told[len(told)-1]
	if len(last.Rounds) != len(res.Rounds) || last.Reason != res.Decision.Reason || last.State != Done {
		t.Errorf("told %d rounds, reason %q, state %s at last; there were %d, %q", len(last.Rounds), last.Reason, last.State, len(res.Rounds), res.Decision.Reason)
	}
	if want := uint64(20000 * pagestream.PageSize); last.MemoryBytes != want {
		t.Errorf("memory of %d bytes, want %d", last.MemoryBytes, want)
	}
	if last.Bytes != s.sent*pagestream.PageSize {
		t.Errorf("%d bytes told, %d arrived", last.Bytes, s.sent*pagestream.PageSize)
	}
	if len(told) < 3 {
		t.Errorf("told %d times only", len(told))
	}
	for i := 1; i < len(told); i++ {
		p, q := told[i-1], told[i]
		if q.Bytes < p.Bytes || q.Round < p.Round || q.RoundPagesDone > q.RoundPages {
			t.Errorf("progress goes back: %+v, then %+v", p, q)
		}
		// The last one of all, at Close, is not held back.
		if gap := at[i].Sub(at[i-1]); gap < MinProgressInterval && i < len(told)-1 {
			t.Errorf("told again after %v", gap)
		}
	}
}

// serial is a sink of which both streams share one lock.
type serial struct {
	*sink
	mu sync.Mutex
}

func (s *serial) Stream(i int) Stream { return serialLane{s, s.sink.Stream(i)} }

type serialLane struct {
	s    *serial
	next Stream
}

func (l serialLane) Runs(space pagestream.Space, runs []pagestream.Range, data []byte) error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.next.Runs(space, runs, data)
}

func TestRateIsThatOfTheLastSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pages atomic.Uint64
		var last Progress
		r := newReporter(Config{Progress: func(p Progress) { last = p }}, pages.Load)
		r.update(func(p *Progress) { p.State = Running })
		r.roundBegins(0, 100000)
		time.Sleep(100 * time.Millisecond) // never at the same instant as a report
		for range 400 {                    // 10 s at 1000 pages a second
			time.Sleep(25 * time.Millisecond)
			pages.Add(25)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		r.close()
		if want := 1000.0 * pagestream.PageSize; last.Rate < want*0.9 || last.Rate > want*1.1 {
			t.Errorf("rate %.0f, want %.0f", last.Rate, want)
		}
		if want := 90 * time.Second; last.ETA < want*9/10 || last.ETA > want*11/10 {
			t.Errorf("eta %v, want about %v", last.ETA, want)
		}
	})
}
