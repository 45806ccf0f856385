package precopy

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"godwit.dev/godwit/pagestream"
)

func TestWhatArrivedIsTheFrozenMemory(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 8))
		tracker := newScripted(t, 1+rng.IntN(6000))
		s := newSink(1 + rng.IntN(4))
		pause := time.Duration(rng.IntN(200)) * time.Microsecond
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(pause):
					tracker.write(rng, 5)
				}
			}
		})
		r := newTestRounds(t, Config{Tracker: tracker, Session: s, Policy: Policy{DirtyLimit: 64 << 10}})
		res, err := r.Run(t.Context())
		if err != nil || !res.Decision.Stop || r.State() != Converged {
			t.Fatalf("seed %d: %+v, %v", seed, res.Decision, err)
		}
		if seed%2 == 0 {
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			if err := r.Keep(ctx, nil); err != nil || r.State() != Converged {
				t.Fatalf("seed %d: keep: %v", seed, err)
			}
			cancel()
		}
		stat, err := r.Final(t.Context())
		close(stop)
		wg.Wait()
		if err != nil || r.State() != Done || stat.Copied.Sent+stat.Copied.Unchanged != stat.Pages {
			t.Fatalf("seed %d: %+v, %v", seed, stat, err)
		}
		s.check(t)
		if bad := s.differing(self, tracker.start, tracker.mem); len(bad) > 0 {
			t.Errorf("seed %d: %d pages differ after %d rounds", seed, len(bad), len(res.Rounds))
		}
		if uint64(s.flushes) < uint64(len(res.Rounds)) {
			t.Errorf("seed %d: %d flushes for %d rounds", seed, s.flushes, len(res.Rounds))
		}
	}
}

// Pages that are written all the time are left out of the rounds, and others for which
// there is no room: they are in the last copy all the same.
func TestWhatWasLeftOutIsInTheLastCopy(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 9))
		tracker := deferring{newScripted(t, 4000)}
		s := newSink(2)
		s.fail = func(pagestream.Space, []pagestream.Range) error {
			tracker.write(rng, 60)
			for p := range uint64(200) { // always the same ones
				tracker.writePage(p * 3)
			}
			return nil
		}
		r := newTestRounds(t, Config{Tracker: tracker, Session: s, Policy: Policy{DirtyLimit: 1, MaxRounds: 6}})
		res, err := r.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if seed%2 == 0 {
			freeze := make(chan struct{})
			close(freeze)
			if err := r.Keep(t.Context(), freeze); err != nil || r.State() != Converged {
				t.Fatalf("keep: %v, %s", err, r.State())
			}
		}
		s.fail = nil
		stat, err := r.Final(t.Context())
		if err != nil || stat.Pages < 200 || tracker.deferral < 200 {
			t.Fatalf("seed %d: %+v, %d pages deferred, %v", seed, stat, tracker.deferral, err)
		}
		if last := res.Rounds[len(res.Rounds)-1]; !last.Sorted || last.Hot < 150 {
			t.Errorf("seed %d: last round %+v", seed, last)
		}
		if bad := s.differing(self, tracker.start, tracker.mem); len(bad) > 0 {
			t.Errorf("seed %d: %d pages differ after %d rounds", seed, len(bad), len(res.Rounds))
		}
	}
}

func TestRuleS0SendsEveryPageInEveryRound(t *testing.T) {
	tracker := deferring{newScripted(t, 1000)}
	s := newSink(1)
	s.fail = func(pagestream.Space, []pagestream.Range) error {
		for p := range uint64(50) {
			tracker.writePage(p)
		}
		return nil
	}
	r := newTestRounds(t, Config{Tracker: tracker, Session: s, Policy: Policy{Rule: S0, MaxRounds: 5, DirtyLimit: 1}})
	res, err := r.Run(t.Context())
	if err != nil || tracker.deferral > 0 {
		t.Fatalf("%d pages left out, %v", tracker.deferral, err)
	}
	for _, round := range res.Rounds {
		if round.Copied.Sent != round.Pages || round.Sorted {
			t.Errorf("%+v", round)
		}
	}
}

func TestFinalAloneIsStopAndCopy(t *testing.T) {
	tracker := newScripted(t, 500)
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: tracker, Session: s})
	stat, err := r.Final(t.Context())
	if err != nil || stat.Pages != 500 {
		t.Fatalf("%+v, %v", stat, err)
	}
	if bad := s.differing(self, tracker.start, tracker.mem); len(bad) > 0 {
		t.Errorf("%d pages differ", len(bad))
	}
}

func TestKeepKeepsTheDirtySetSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := newScripted(t, 20000)
		r, err := New(Config{Tracker: tracker, Session: null{2}})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := tracker.collects
		ctx, cancel := context.WithCancel(t.Context())
		kept := make(chan error)
		go func() { kept <- r.Keep(ctx, nil) }()
		rng := rand.New(rand.NewPCG(1, 1))
		for range 1000 { // 10 s of 12 MB/s
			tracker.write(rng, 30)
			time.Sleep(10 * time.Millisecond)
			// Without rounds nearly all of the 20000 pages would be dirty.
			if n := tracker.count(); n > 1600 {
				t.Fatalf("%d pages are dirty", n)
			}
		}
		cancel()
		if err := <-kept; err != nil {
			t.Fatal(err)
		}
		if rounds := tracker.collects - before; rounds < 10 || rounds > 70 {
			t.Errorf("%d rounds in 10 s", rounds)
		}
	})
}

func TestKeepPauseFollowsTheDirtyRate(t *testing.T) {
	round := func(rate float64, took time.Duration) RoundStat {
		s := RoundStat{Window: time.Second, Copy: took}
		s.Pages = uint64(rate / pagestream.PageSize)
		return s
	}
	for _, c := range []struct {
		name string
		last RoundStat
		want time.Duration
	}{
		{"nothing dirty", round(0, time.Millisecond), maxKeepPause},
		{"half of the limit in 200 ms", round(40*mib, time.Millisecond), 200 * time.Millisecond},
		{"very much", round(4000*mib, time.Millisecond), minKeepPause},
		{"rounds take long", round(4000*mib, 600*time.Millisecond), 1800 * time.Millisecond},
	} {
		if got := keepPause(c.last, 16*mib); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAPageThatCannotBeReadFailsOnlyTheLastCopy(t *testing.T) {
	tracker := newScripted(t, 100)
	tracker.missing = true
	r := newTestRounds(t, Config{Tracker: tracker, Session: newSink(1)})
	if res, err := r.Run(t.Context()); err != nil || res.Rounds[0].Copied.Skipped != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	if _, err := r.Final(t.Context()); !errors.Is(err, ErrUnreadable) || r.State() != Broken {
		t.Errorf("%v in state %s, want %v", err, r.State(), ErrUnreadable)
	}
}

func TestAnIllegalMoveIsAnError(t *testing.T) {
	ctx := t.Context()
	calls := map[string]func(r *Rounds) error{
		"Run":   func(r *Rounds) error { _, err := r.Run(ctx); return err },
		"Keep":  func(r *Rounds) error { c, stop := context.WithCancel(ctx); stop(); return r.Keep(c, nil) },
		"Final": func(r *Rounds) error { _, err := r.Final(ctx); return err },
		"FinishShared": func(r *Rounds) error {
			_, _, err := r.FinishShared(ctx, 0, t.TempDir())
			return err
		},
	}
	all := map[State][]string{ // what each state allows
		Idle:      {"Run", "Final", "FinishShared"},
		Running:   nil,
		Converged: {"Keep", "Final", "FinishShared"},
		Keeping:   nil,
		Final:     {"FinishShared"},
		Done:      {"FinishShared"},
		Broken:    nil,
		Closed:    nil,
	}
	for state, allowed := range all {
		for name, call := range calls {
			r := newTestRounds(t, Config{Tracker: newScripted(t, 4), Session: newSink(1)})
			r.state = state
			err := call(r)
			if ok := slices.Contains(allowed, name); ok != (err == nil) || (!ok && !errors.Is(err, ErrState)) {
				t.Errorf("%s in state %s: %v, want allowed %v", name, state, err, ok)
			}
		}
	}
}

func TestABrokenRoundLeavesTheRoundsBroken(t *testing.T) {
	lost := errors.New("lost")
	for _, c := range []struct {
		name string
		make func(*scripted, *sink)
	}{
		{"tracker", func(tr *scripted, _ *sink) { tr.err = lost }},
		{"stream", func(_ *scripted, s *sink) {
			s.fail = func(pagestream.Space, []pagestream.Range) error { return lost }
		}},
	} {
		tracker, s := newScripted(t, 100), newSink(2)
		c.make(tracker, s)
		r := newTestRounds(t, Config{Tracker: tracker, Session: s})
		if _, err := r.Run(t.Context()); !errors.Is(err, lost) || r.State() != Broken {
			t.Errorf("%s: %v in state %s", c.name, err, r.State())
		}
		if _, err := r.Final(t.Context()); !errors.Is(err, ErrState) {
			t.Errorf("%s: last copy of broken rounds: %v", c.name, err)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	tracker, s := newScripted(t, 100), newSink(1)
	release := make(chan struct{})
	s.fail = func(pagestream.Space, []pagestream.Range) error { <-release; return nil }
	r := newTestRounds(t, Config{Tracker: tracker, Session: s})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := r.Run(ctx)
	close(release)
	if !errors.Is(err, context.DeadlineExceeded) || r.State() != Broken {
		t.Errorf("%v in state %s", err, r.State())
	}
}

func TestRunEndsByTheTimeItIsToldTo(t *testing.T) {
	for _, c := range []struct {
		name   string
		in     time.Duration
		reason Reason
		rounds int
	}{
		{"it has passed", -time.Hour, TimeSpent, 1},
		{"it is far away", time.Hour, ShortDowntime, 2},
	} {
		r := newTestRounds(t, Config{Tracker: newScripted(t, 100), Session: newSink(1)})
		r.EndBy(time.Now().Add(c.in))
		res, err := r.Run(t.Context())
		if err != nil || res.Decision.Reason != c.reason || len(res.Rounds) != c.rounds || r.State() != Converged {
			t.Errorf("%s: %q after %d rounds, %v", c.name, res.Decision.Reason, len(res.Rounds), err)
		}
	}
}

func TestNewRejectsWhatCannotWork(t *testing.T) {
	for _, c := range []Config{{}, {Tracker: newScripted(t, 1)}, {Session: newSink(1)}, {Tracker: newScripted(t, 1), Session: newSink(0)}} {
		if r, err := New(c); err == nil {
			r.Close()
			t.Errorf("New(%+v) gave no error", c)
		}
	}
}
