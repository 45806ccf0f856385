package shim

import (
	"errors"
	"testing"
	"time"
)

func TestThePressureOnProcessorsIsReadAsTheKernelWritesIt(t *testing.T) {
	const good = "some avg10=1.84 avg60=33.87 avg300=48.97 total=1695176448\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
	if got, err := parsePressure([]byte(good)); got != 1695176448*time.Microsecond || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "full avg10=0.00 total=7\n", "some avg10=0.00\n", "some total=x\n"} {
		if got, err := parsePressure([]byte(bad)); err == nil {
			t.Errorf("%q is taken for %v", bad, got)
		}
	}
}

func TestACommittedPodsEndWaitsForItsNeighboursAndNotForEver(t *testing.T) {
	busy, idle := leisureLook/leisureShare, leisureLook/leisureShare-time.Microsecond
	for _, c := range []struct {
		name  string
		each  []time.Duration // what is waited more at each look; the last goes on for ever
		err   error
		looks int // at most
	}{
		{name: "on an idle node", each: []time.Duration{idle}, looks: 2},
		{name: "until it is idle", each: []time.Duration{busy, 4 * busy, idle}, looks: 4},
		{name: "on a busy one", each: []time.Duration{busy}, looks: int(leisureLimit/leisureLook) + 1},
		{name: "where nothing is known", err: errors.New("no such file"), looks: 1},
	} {
		var looks int
		var total time.Duration
		awaitLeisure(func() (time.Duration, error) {
			if n := len(c.each); looks > 0 && n > 0 {
				total += c.each[min(looks, n)-1]
			}
			looks++
			return total, c.err
		})
		if looks != c.looks {
			t.Errorf("%s: %d looks, not %d", c.name, looks, c.looks)
		}
	}
}
