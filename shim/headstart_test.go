package shim

import (
	"context"
	"errors"
	"testing"
	"time"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func TestFilesGoAheadUntilWhatIsLeftOfThemFitsAStart(t *testing.T) {
	at := func(s int) time.Time { return time.Time{}.Add(time.Hour + time.Duration(s)*time.Second) }
	for _, k := range []struct {
		name  string
		syncs [][2]int // when they began and ended, seconds
		now   int
		left  time.Duration
		want  headStartStep
	}{
		{"the first was short", [][2]int{{0, 14}}, 14, 14 * time.Second, placePod},
		{"and memory took an hour since", [][2]int{{0, 14}}, 3600, 14 * time.Second, placePod},
		{"the first took longer than a start", [][2]int{{0, 300}}, 300, 300 * time.Second, syncAgain},
		{"the second was short", [][2]int{{0, 300}, {300, 310}}, 310, 10 * time.Second / 30, placePod},
		{"and memory took an hour since", [][2]int{{0, 300}, {300, 310}}, 3910, 10 * time.Second * 3610 / 300, syncAgain},
		{"each is shorter", [][2]int{{0, 300}, {300, 500}, {500, 630}}, 630, 130 * time.Second * 130 / 200, syncAgain},
		{"none is shorter, and a start is long enough", [][2]int{{0, 50}, {50, 100}, {100, 150}}, 150, 50 * time.Second, placePod},
		{"none is shorter, and a start is not long enough", [][2]int{{0, 300}, {300, 600}, {600, 900}}, 900, 300 * time.Second, outrun},
		{"two are not enough to tell", [][2]int{{0, 300}, {300, 600}}, 600, 300 * time.Second, syncAgain},
	} {
		var h headStart
		for _, s := range k.syncs {
			h.synced(at(s[0]), at(s[1]))
		}
		left, got := h.left(at(k.now)), h.decide(at(k.now))
		if got != k.want || (left-k.left).Abs() > time.Millisecond {
			t.Errorf("%s: %v with %v left, want %v with %v", k.name, got, left, k.want, k.left)
		}
	}
}

func TestLittleOfMemoryIsLeftWhenTheFirstCopyIsNearlyDone(t *testing.T) {
	for _, k := range []struct {
		name   string
		p      *shimv1.Progress
		copied bool
		want   bool
	}{
		{"nothing is known", &shimv1.Progress{}, false, false},
		{"much is to come", &shimv1.Progress{EtaMs: 15_000}, false, false},
		{"little is to come", &shimv1.Progress{EtaMs: 14_999}, false, true},
		{"the second round", &shimv1.Progress{Round: 1, EtaMs: 60_000}, false, true},
		{"the first round has ended", &shimv1.Progress{Rounds: []*shimv1.Round{{}}}, false, true},
		{"the rounds have ended", &shimv1.Progress{EtaMs: 60_000}, true, true},
	} {
		if got := memoryNearlyCopied(k.p, k.copied); got != k.want {
			t.Errorf("%s: %v", k.name, got)
		}
	}
}

func TestThePodIsAskedForWhenMemoryIsNearlyCopiedToo(t *testing.T) {
	s := testSource(shimv1.State_STATE_ROUNDS)
	done, synced := make(chan error, 1), make(chan struct{})
	go func() {
		done <- s.goAhead(s.work, func(context.Context) error { close(synced); return nil })
	}()
	<-synced
	if p, _ := s.report(); p.GetPlacePod() {
		t.Error("asked for while nothing is known of memory")
	}
	s.noteCopied()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if p, _ := s.report(); !p.GetPlacePod() {
		t.Error("not asked for")
	}
}

func TestFilesThatCannotBeSentEndTheHeadStart(t *testing.T) {
	s, full := testSource(shimv1.State_STATE_ROUNDS), errors.New("no room")
	if err := s.goAhead(s.work, func(context.Context) error { return full }); !errors.Is(err, full) {
		t.Error(err)
	}
	s.cancel(full)
	if err := s.goAhead(s.work, func(context.Context) error { return nil }); !errors.Is(err, full) {
		t.Errorf("called off while memory is copied: %v", err)
	}
}

// Frozen for a copy that cannot be done in time a pod stands still for nothing.
func TestAColdCopyIsBrokenOffWhenItCannotBeDoneInTime(t *testing.T) {
	const mib = 1 << 20
	frozen := time.Now()
	for _, c := range []struct {
		name         string
		placed, took time.Duration // before the freeze, since it
		memory, sent uint64
		want         bool
	}{
		{"in a minute at this rate", 2 * time.Second, 10 * time.Second, 600 * mib, 100 * mib, false},
		{"a little over, which may be only seeming", 2 * time.Second, 10 * time.Second, 1400 * mib, 100 * mib, false},
		{"in four minutes", 2 * time.Second, 10 * time.Second, 2400 * mib, 100 * mib, true},
		{"in four minutes, judged too early", 2 * time.Second, 4 * time.Second, 2400 * mib, 40 * mib, false},
		{"nearly done when the time is over", 30 * time.Second, 95 * time.Second, 1000 * mib, 999 * mib, true},
		{"everything is sent, and more than was thought", 2 * time.Second, 10 * time.Second, 100 * mib, 110 * mib, false},
		{"nothing is sent yet: CRIU dumps", 2 * time.Second, 10 * time.Second, 100 * mib, 0, false},
		{"placed long before the freeze", 100 * time.Second, 10 * time.Second, 500 * mib, 100 * mib, true},
	} {
		copying := coldCopy{placed: frozen.Add(-c.placed), frozen: frozen, memory: c.memory, sent: c.sent}
		if err := copying.tooLate(frozen.Add(c.took)); (err != nil) != c.want || err != nil && !errors.Is(err, errTooLate) {
			t.Errorf("%s: %v, want broken off %v", c.name, err, c.want)
		}
	}
}
