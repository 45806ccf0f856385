package nodecontroller

import (
	"testing"
	"time"
)

func TestADestinationIsLostOnlyWhenItStaysOutOfTheCluster(t *testing.T) {
	begun := time.Now()
	for _, c := range []struct {
		name string
		out  []bool // at each look, a look each 20 s
		want bool   // at the last
	}{
		{"just gone", []bool{true}, false},
		{"gone for a while", []bool{true, true, true}, false},
		{"gone for good", []bool{true, true, true, true}, true},
		{"there", []bool{false, false, false, false, false}, false},
		{"back in between", []bool{true, true, false, true, true}, false},
		{"back at last", []bool{true, true, true, true, false}, false},
	} {
		var a absence
		got := false
		for i, out := range c.out {
			got = a.lasts(out, begun.Add(time.Duration(i)*lostAfter/3))
		}
		if got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
