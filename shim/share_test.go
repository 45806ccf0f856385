package shim

import (
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/linklimit"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func TestWhatIsFetchedFromTheSourceKeepsToItsShare(t *testing.T) {
	const rate = 1 << 20
	for _, c := range []struct {
		name  string
		own   int64
		share *shimv1.LinkShare
		rate  int64 // that counts; 0: none
		held  bool
	}{
		{"nothing is limited", 0, nil, 0, false},
		{"a share", 0, &shimv1.LinkShare{Rate: rate}, rate, false},
		{"a limit of its own", rate, nil, rate, false},
		{"both, the share is less", 3 * rate, &shimv1.LinkShare{Rate: rate}, rate, false},
		{"both, its own is less", rate, &shimv1.LinkShare{Rate: 3 * rate}, rate, false},
		{"held back", 0, &shimv1.LinkShare{Rate: rate, Held: true}, rate, true},
		{"held back and nothing limited", 0, &shimv1.LinkShare{Held: true}, 0, true},
	} {
		u := linkUse{own: c.own, share: c.share, left: linklimit.New(0)}
		u.apply()
		// A thousand seconds and a bit: hurry does not matter.
		seconds := 0.0
		now := time.Now()
		u.left.Book(rate<<10, false, now)
		wait, held, _ := u.left.Wait(u.left.Book(0, false, now), false, now)
		if c.rate > 0 {
			seconds = float64(rate<<10) / float64(c.rate)
		}
		if held != c.held || !held && (wait.Seconds() > seconds || wait.Seconds() < seconds*0.9) {
			t.Errorf("%s: held back %v, waits %v, want %v s", c.name, held, wait, seconds)
		}
		u.letGo()
		if _, held, _ := u.left.Wait(0, false, now); held {
			t.Errorf("%s: held back when nobody is there who would end it", c.name)
		}
	}
}
