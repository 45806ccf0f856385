package wire

import (
	"testing"
	"time"
)

func TestOnlyTheTimeInWhichSomethingIsSentCounts(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(1000+s, 0) }
	var a activity
	one, two := flow{window: 100, active: &a}, flow{window: 100, active: &a}
	check := func(now, want int64) {
		t.Helper()
		if got := a.until(at(now)); got != time.Duration(want)*time.Second {
			t.Errorf("after %d s it was active for %v, want %d s", now, got, want)
		}
	}
	check(5, 0)
	one.add(10, at(5))
	check(7, 2)
	two.add(10, at(7)) // both at once count once
	one.add(10, at(8))
	one.ack(20, 20, at(9))
	check(10, 5)
	two.ack(10, 10, at(10))
	check(20, 5)
	a.begin(at(20)) // a call that waits to send
	one.add(1, at(21))
	a.end(at(22))
	one.ack(21, 21, at(23))
	one.ack(21, 21, at(24)) // the same again ends nothing
	check(30, 8)
}
