package main

import (
	"testing"
	"time"

	"godwit.dev/godwit/test/figure"
)

func moves(gaps ...int) []moved {
	var all []moved
	for _, g := range gaps {
		d := time.Duration(g) * time.Millisecond
		all = append(all, moved{gap: d, downtime: d / 2, total: 10 * d, before: 100, after: 100 - g/5, worst: d / 3})
	}
	return all
}

// Medians are compared, and of those that move together the worst; daemons by what is resident and by their processor time.
func TestFiguresAreWhatWasPromised(t *testing.T) {
	b := &bench{
		plain: moves(100, 100, 400), kube: moves(150, 140, 900), alone: moves(90, 100, 110), together: moves(100, 301, 120),
		before: usage{resident: 61 << 20, processor: 0.01}, after: usage{resident: 122 << 20, processor: 0.0201},
	}
	want := map[string]struct {
		value float64
		kept  bool
	}{
		"downtime by a PodMigration / without Kubernetes, client": {1.5, true},
		"total of a PodMigration, more than without":              {0.5, true},

		"writes in the second after a PodMigration's move / in one before it": {0.7, true},
		"the longest wait for one of them":                                    {50, true},
		"worst downtime of ten pods at once / of one, client":                 {3.01, false},
		"godwit-node idle, resident":                                          {61, false},
		"godwit-node idle, processor":                                         {1, true},
		"resident with 1,000 finished PodMigrations / without":                {2, true},
		"processor with 1,000 finished PodMigrations / without":               {2.01, false},
	}
	byName := map[string]figure.Figure{}
	for _, f := range b.report().Figures {
		byName[f.Name] = f
	}
	for name, w := range want {
		f, ok := byName[name]
		if diff := f.Value - w.value; !ok || diff > 1e-9 || diff < -1e-9 || f.Kept() != w.kept {
			t.Errorf("%s: %+v, kept %v, want %v, %v", name, f, f.Kept(), w.value, w.kept)
		}
	}
}

func TestNothingIsJudgedThatWasNotMeasured(t *testing.T) {
	if r := (&bench{}).report(); len(r.Figures) != 0 {
		t.Errorf("%+v", r.Figures)
	}
}
