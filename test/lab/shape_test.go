package lab

import (
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	for in, want := range map[string]uint64{
		"1gbit": 1e9, "1Gbit": 1e9, "500mbit": 5e8, "2.5gbit": 2.5e9, " 64kbit ": 64000, "1000bit": 1000, "1tbit": 1e12,
		"": 0, "gbit": 0, "-1gbit": 0, "1": 0, "1gb": 0, "nangbit": 0, "infgbit": 0, "1e30bit": 0, "999bit": 0,
	} {
		got, err := ParseRate(in)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("ParseRate(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"1gbit", "0.1mbit", "kbit", "1e9bit", "0x1p9kbit"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if rate, err := ParseRate(s); err == nil && (rate < 999 || rate > 1e12) {
			t.Errorf("ParseRate(%q) = %d, out of its bounds", s, rate)
		}
	})
}

func TestRulesOfALinkHoldOnlyWhatWasAsked(t *testing.T) {
	tests := []struct {
		shape      Shape
		netem      bool
		want, miss []string
	}{
		{Shape{}, true, nil, []string{"qdisc"}},
		{Shape{Delay: time.Millisecond}, false, nil, []string{"qdisc"}}, // the delay line's
		{Shape{Delay: time.Millisecond}, true, []string{"netem delay 1000us", "rate 100000000000bit"}, []string{"bfifo"}},
		{Shape{Rate: 1e9}, false, []string{"rate 1000000000bit", "bfifo", "match ip dst 10.88.0.1/32 flowid 1:20"}, []string{"netem"}},
		{Shape{Rate: 1e9, Delay: time.Millisecond}, true, []string{"rate 1000000000bit", "netem delay 1000us"}, nil},
	}
	for _, tt := range tests {
		got := tcScript(tt.shape, "10.88.0.1", tt.netem)
		for _, w := range tt.want {
			if !strings.Contains(got, w) {
				t.Errorf("%+v, netem %v: no %q in\n%s", tt.shape, tt.netem, w, got)
			}
		}
		for _, m := range tt.miss {
			if strings.Contains(got, m) {
				t.Errorf("%+v, netem %v: %q in\n%s", tt.shape, tt.netem, m, got)
			}
		}
	}
}
