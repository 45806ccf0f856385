package figure

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestAFigureIsKeptUpToItsLimit(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Figure
		kept bool
	}{
		{"below the most", Figure{Value: 0.9, Limit: 1}, true},
		{"the most", Figure{Value: 1, Limit: 1}, true},
		{"above the most", Figure{Value: 1.1, Limit: 1}, false},
		{"below the least", Figure{Value: 0.7, Limit: 0.8, AtLeast: true}, false},
		{"the least", Figure{Value: 0.8, Limit: 0.8, AtLeast: true}, true},
		{"nothing was promised", Figure{Value: 9, Limit: 1, Unpromised: true}, true},
		{"nothing was promised, of nothing", Figure{Value: math.NaN(), Unpromised: true}, true},
		{"a ratio of nothing to nothing", Figure{Value: math.NaN(), Limit: 1}, false},
	} {
		if c.f.Kept() != c.kept {
			t.Errorf("%s: kept is %v, want %v", c.name, c.f.Kept(), c.kept)
		}
		if missed := errors.Is(Judge([]Figure{{Value: 0, Limit: 1}, c.f}), ErrMissed); missed == c.kept {
			t.Errorf("%s: judged as missed: %v", c.name, missed)
		}
		var out bytes.Buffer
		Print(&out, []Figure{c.f})
		if strings.Contains(out.String(), "MISSED") == c.kept {
			t.Errorf("%s: printed %q", c.name, out.String())
		}
	}
}

func TestWhatWasNotPromisedIsPrintedWithoutAVerdict(t *testing.T) {
	var out bytes.Buffer
	Print(&out, []Figure{{Name: "told", Value: 14.3, Unpromised: true}})
	if s := out.String(); !strings.Contains(s, "14.3") || strings.Contains(s, "PASS") || strings.Contains(s, "at most") {
		t.Errorf("printed %q", s)
	}
}
