package nodecontroller

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/linkshare"
	"godwit.dev/godwit/nodecontroller/queue"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// toldShares is a shim that hears its shares.
type toldShares struct {
	shimv1.MigrationClient
	shares chan *shimv1.LinkShare
}

func (s toldShares) Share(_ context.Context, r *shimv1.ShareRequest) (*shimv1.ShareResponse, error) {
	s.shares <- r.Share
	return &shimv1.ShareResponse{}, nil
}

// follow tells a shim the shares of a migration until the test's end.
func (u *linkUser) follow(t *testing.T) chan *shimv1.LinkShare {
	shim := toldShares{shares: make(chan *shimv1.LinkShare)}
	ended := make(chan struct{})
	<-u.changed // what it began with
	go func() {
		defer close(ended)
		u.tell(context.Background(), shim, "m", slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		u.leave()
		<-ended
	})
	return shim.shares
}

func TestSharesAreToldAtOnceWhenAMigrationBeginsFreezesAndEnds(t *testing.T) {
	s := &sharing{link: 1000}
	one := s.join(0)
	shares := one.follow(t)
	two := s.join(0)
	if got := <-shares; got.Rate != 500 || got.Held {
		t.Errorf("when another begins it has %v", got)
	}
	at := time.Unix(1000, 0)
	two.report(usage{at: at})
	two.report(usage{at: at.Add(time.Second), bytes: 75})
	if got := <-shares; got.Rate <= 800 || got.Rate >= 1000 || got.Held {
		t.Errorf("when the other needs little it has %v", got)
	}
	two.urgent(true)
	if got := <-shares; !got.Held {
		t.Errorf("when the other is frozen it has %v", got)
	}
	two.leave()
	two.leave() // harmless
	if got := <-shares; got.Rate != 1000 || got.Held {
		t.Errorf("when the other has ended it has %v", got)
	}
}

func TestWithoutALimitOfTheNodeOnlyFrozenPodsTakeTheLink(t *testing.T) {
	s := new(sharing)
	one, two := s.join(0), s.join(7)
	if a, b := one.current(), two.current(); a.Rate != 0 || a.Held || b.Rate != 7 || b.Held {
		t.Errorf("they begin with %v and %v", a, b)
	}
	one.urgent(true)
	if a, b := one.current(), two.current(); a.Held || !b.Held {
		t.Errorf("when one is frozen they have %v and %v", a, b)
	}
	one.urgent(false)
	if b := two.current(); b.Rate != 7 || b.Held {
		t.Errorf("then the other has %v", b)
	}
}

func TestAPodStaysInTheDivisionUntilItsMemoryIsThere(t *testing.T) {
	for _, c := range []struct {
		name      string
		committed bool
		left      uint64
		other     linkshare.Share // when the turn has ended
	}{
		{"all of it is there", true, 0, linkshare.Share{Rate: 1000}},
		{"pages are left", true, 7, linkshare.Share{Rate: 500}},
		{"broken off", false, 0, linkshare.Share{Rate: 1000}},
		{"broken off, and pages would have been left", false, 7, linkshare.Share{Rate: 1000}},
	} {
		s := &sharing{link: 1000}
		one, two := s.join(0), s.join(0)
		one.urgent(true)
		if !two.share.Held {
			t.Errorf("%s: the other goes on while it is frozen", c.name)
		}
		one.turnEnds(c.committed, c.left)
		if two.share != c.other {
			t.Errorf("%s: the other has %+v, want %+v", c.name, two.share, c.other)
		}
		if one.leave(); two.share.Rate != 1000 {
			t.Errorf("%s: when it has ended the other has %+v", c.name, two.share)
		}
	}
}

func TestPausesOfAMigrationDoNotMakeItsShareSmall(t *testing.T) {
	s := &sharing{link: 1000}
	one, two := s.join(0), s.join(0)
	now := usage{at: time.Unix(1000, 0)}
	use := func(bytes uint64, active time.Duration) {
		now.at, now.bytes, now.active = now.at.Add(time.Second), now.bytes+bytes, now.active+active
		one.report(now)
	}
	one.report(now)
	use(100, time.Second/2) // 200 a second, for half a second
	if got := one.share.Rate; got < 250 || got >= 500 {
		t.Errorf("it has %v, it would take 250 and a bit", got)
	}
	had := one.share
	use(0, 0)
	if one.share != had {
		t.Errorf("after a pause it has %+v, before it was %+v", one.share, had)
	}
	use(0, 0)
	if got := two.share.Rate; got < 900 {
		t.Errorf("after a long pause the other has %v", got)
	}
}

func TestAMigrationWaitsForAPlaceAndSaysWhere(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		c := newTestCluster(t)
		c.a.run()
		places := c.a.daemon.places
		if err := places.Take(t.Context(), queue.Entry{}, nil); err != nil {
			t.Fatal(err)
		}
		queued := false
		last, err := c.a.migrate(&nodev1.MigrateRequest{Pod: "p", To: "b"}, func(e *nodev1.Event) {
			if e.Kind != "queued" {
				return
			}
			queued = true
			if e.Phase != nodev1.Phase_PHASE_PENDING || !strings.Contains(e.Message, "1st in the queue of node a") {
				t.Errorf("it waits with %v", e)
			}
			if cancelled {
				c.a.cancelAll()
			}
			places.Give()
		})
		if err != nil || !queued {
			t.Fatalf("queued: %v, %v", queued, err)
		}
		if last.Result.GetSucceeded() && cancelled {
			continue // the place came first
		}
		if last.Result.GetSucceeded() == cancelled {
			t.Errorf("ended with %v", last)
		}
		c.settled()
		if err := places.Take(t.Context(), queue.Entry{}, func(int) { t.Error("a place is lost") }); err != nil {
			t.Fatal(err)
		}
	}
}
