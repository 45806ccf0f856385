package precopy

import (
	"errors"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

func TestStalled(t *testing.T) {
	for _, c := range []struct {
		name    string
		history []RoundStat
		policy  Policy
		want    bool
	}{
		{"goes on", rounds(100, 1024, 500), Policy{}, false},
		{"short enough", rounds(1000, 1024, 10), Policy{}, false},
		{"everything is written all the time", rounds(100, 1024, 1024, 1024), Policy{}, true},
		{"which the limit allows", rounds(100, 1024, 1024, 1024), Policy{DowntimeLimit: time.Minute}, false},
		{"time spent with much left", rounds(100, 1024, 500), Policy{MaxTime: 15 * time.Second}, true},
		{"time spent before anything is known", rounds(1, 1024), Policy{MaxTime: time.Minute}, true},
		{"rounds spent with little left", rounds(1000, 1024, 90), Policy{MaxRounds: 1}, false},
		{"the amount that was asked for", rounds(100, 1024, 100), Policy{DirtyLimit: 200 * mib}, false},
		{"S0 ends with little left", rounds(1000, 1024, 1, 1, 1, 1, 1, 2), Policy{Rule: S0, DirtyLimit: 1}, false},
		{"S0 ends with much left", rounds(100, 1024, 500, 500, 500, 900), Policy{Rule: S0}, true},
	} {
		d := Decide(c.history, c.policy)
		if d.Stalled() != c.want {
			t.Errorf("%s: %v, %+v", c.name, d.Stalled(), d)
		}
		if err := d.stalled(c.policy); err != nil {
			t.Errorf("%s: %v, though nobody asked for that", c.name, err)
		}
		c.policy.OnStall = Abort
		if err := d.stalled(c.policy); errors.Is(err, ErrStalled) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for name, want := range map[string]OnStall{"": StopAndCopy, "abort": Abort, "stopandcopy": StopAndCopy} {
		if got, err := ParseOnStall(name); got != want || err != nil {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
	if _, err := ParseOnStall("pray"); !errors.Is(err, ErrUnknownOnStall) {
		t.Error(err)
	}
}

func TestRunThatStallsIsBrokenOffIfAskedTo(t *testing.T) {
	tracker, s := newScripted(t, 2000), newSink(1)
	s.fail = func(_ pagestream.Space, runs []pagestream.Range) error {
		for p := range uint64(2000) {
			tracker.writePage(p)
		}
		return nil
	}
	r := newTestRounds(t, Config{Tracker: tracker, Session: s, Policy: Policy{
		OnStall: Abort, DowntimeLimit: 1, Standstill: Standstill{Freeze: 1}, MaxRounds: 3,
	}})
	if _, err := r.Run(t.Context()); !errors.Is(err, ErrStalled) || r.State() != Broken {
		t.Errorf("%v in state %s", err, r.State())
	}
}
