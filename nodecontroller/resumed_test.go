package nodecontroller

import (
	"testing"
	"time"
)

func TestAPodRunsFromWhenItWasLetGoAndNotFromTheAnswer(t *testing.T) {
	told := time.Unix(1000, 0)
	at := func(ms int) time.Time { return told.Add(time.Duration(ms) * time.Millisecond) }
	for _, c := range []struct {
		name     string
		answered time.Time
		ranFor   uint64
		want     time.Time
	}{
		{"it was let go a while before the answer", at(30), 12_000, at(18)},
		{"the destination says nothing of it", at(30), 0, at(30)},
		{"it says that it ran before it was told to", at(30), 90_000, at(0)},
		{"a forged number", at(30), 1 << 63, at(0)},
		{"the clock was set back meanwhile", at(-5), 12_000, at(-5)},
	} {
		if got := resumedAt(told, c.answered, c.ranFor); !got.Equal(c.want) {
			t.Errorf("%s: %v after it was told, want %v", c.name, got.Sub(told), c.want.Sub(told))
		}
	}
	if got := ranFor(at(0).UnixNano(), at(12)); got != 12_000 {
		t.Errorf("a pod that was let go 12 ms ago ran for %d us", got)
	}
	if got := ranFor(at(12).UnixNano(), at(0)); got != 0 {
		t.Errorf("a pod that will be let go, by a clock that was set back, ran for %d us", got)
	}
}
