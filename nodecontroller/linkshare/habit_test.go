package linkshare

import (
	"math"
	"testing"
	"time"
)

func TestWhoWaitedForItsShareWantsMoreAndWhoDidNotWhatItTookWhileItSent(t *testing.T) {
	const link = 320 // of which 10 come on top
	const second, pause = time.Second, 400 * time.Millisecond
	for _, c := range []struct {
		name string
		uses []Use
		want float64
	}{
		{"nothing is known", nil, 0},
		{"all the time", []Use{{Bytes: 100, Over: second, Active: second}}, 125 + 10},
		{"for two seconds", []Use{{Bytes: 100, Over: 2 * second, Active: 2 * second}}, 62.5 + 10},
		{"with pauses", []Use{{Bytes: 100, Over: second, Active: second / 4}}, 500 + 10},
		{"in one short burst", []Use{{Bytes: 1, Over: second, Active: time.Microsecond}}, 12.5 + 10},
		{"not told for how long", []Use{{Bytes: 100, Over: second}}, 125 + 10},
		{"told of more time than there was", []Use{{Bytes: 100, Over: second, Active: 3 * second}}, 125 + 10},
		{"waited a little", []Use{{Bytes: 100, Over: second, Active: second, Throttled: 20 * time.Millisecond}}, 125 + 10},
		{"waited much", []Use{{Bytes: 100, Over: second, Active: second, Throttled: 100 * time.Millisecond}}, 0},
		{"a pause after that", []Use{{Bytes: 100, Over: second, Active: second, Throttled: second}, {Over: pause}}, 0},
		{"a pause", []Use{{Bytes: 100, Over: second, Active: second}, {Over: pause}, {Over: pause}}, 125 + 10},
		{"a long pause", []Use{{Bytes: 100, Over: second, Active: second}, {Over: pause}, {Over: pause}, {Over: pause}}, 10},
		{"pauses do not add up", []Use{
			{Bytes: 100, Over: second, Active: second}, {Over: pause}, {Over: pause}, {Bytes: 100, Over: second, Active: second}, {Over: pause},
		}, 125 + 10},
		{"no time at all", []Use{{Bytes: 100, Over: second, Active: second}, {Bytes: 1}}, 125 + 10},
	} {
		var h Habit
		for _, u := range c.uses {
			h = h.Next(link, u)
		}
		if math.Abs(h.Want-c.want) > 1e-9 {
			t.Errorf("%s: wants %v, want %v", c.name, h.Want, c.want)
		}
	}
	if got := (Habit{}).Next(0, Use{Over: time.Minute}).Want; got <= 0 {
		t.Errorf("who took nothing wants %v: that is all there is", got)
	}
}
