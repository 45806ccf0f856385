package criu

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestOnlyAYardOlderThanEveryRunningCRIUIsAbandoned(t *testing.T) {
	now := time.Now()
	ago := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	for _, c := range []struct {
		name    string
		changed time.Time
		running []time.Time
		want    bool
	}{
		{"none runs", now, nil, true},
		{"one runs, and may have made it", ago(5), []time.Time{ago(6)}, false},
		{"one was started at about that time", ago(5), []time.Time{ago(5)}, false},
		{"one was started later", ago(60), []time.Time{ago(5)}, true},
		{"one was started later, another before", ago(60), []time.Time{ago(5), ago(61)}, false},
	} {
		if have := abandoned(c.changed, c.running); have != c.want {
			t.Errorf("%s: abandoned is %v", c.name, have)
		}
	}
}

func TestStartIsReadOfALivingProcessOfTheName(t *testing.T) {
	const stat = "7 (criu) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1234 0 0"
	for text, want := range map[string]time.Duration{
		stat: 12340 * time.Millisecond,
		strings.Replace(stat, "(criu)", "(criu-ns)", 1): 0,
		strings.Replace(stat, ") S", ") Z", 1):          0,
		"7 (criu) S 1 7":                                0,
		"":                                              0,
	} {
		if have, ok := startOf(text, "criu"); have != want || ok != (want > 0) {
			t.Errorf("%q: %v, %v", text, have, ok)
		}
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	starts, err := startsOf(strings.TrimSpace(string(comm)))
	if err != nil || len(starts) == 0 {
		t.Fatalf("this process was started at %v (%v)", starts, err)
	}
	if age := time.Since(starts[0]); age < -time.Second {
		t.Errorf("it is started in %v", -age)
	}
}
