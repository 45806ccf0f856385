package matrix

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestARowIsTheMediansOfItsMoves(t *testing.T) {
	for name, c := range map[string]struct {
		downtimes []float64
		want      float64
	}{
		"one":            {[]float64{7}, 7},
		"three":          {[]float64{9, 1, 5}, 5},
		"two: the upper": {[]float64{1, 9}, 9},
	} {
		var moves []Row
		for _, d := range c.downtimes {
			moves = append(moves, Row{Mode: "live", DowntimeMS: d, TotalMS: 10 * d, Bytes: uint64(100 * d), StopReason: "first"})
		}
		got := Medians(moves)
		if got.DowntimeMS != c.want || got.TotalMS != 10*c.want || got.Bytes != uint64(100*c.want) || got.Mode != "live" || got.StopReason != "first" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestChoosingKeepsTheOrderThatWasAskedFor(t *testing.T) {
	name := func(l Link) string { return l.Name }
	for only, want := range map[string]string{
		"": "unshaped 1gbit 200mbit", "200mbit,unshaped": "200mbit unshaped", "1gbit": "1gbit",
	} {
		got, err := Choose(Links(), name, only)
		var names []string
		for _, l := range got {
			names = append(names, l.Name)
		}
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("%q: %v, %v", only, names, err)
		}
	}
	if _, err := Choose(Links(), name, "unshaped,modem"); err == nil || !strings.Contains(err.Error(), `"modem"`) {
		t.Errorf("a link that does not exist: %v", err)
	}
}

func example() *Table {
	return &Table{
		About: About{
			Measured: time.Date(2026, 11, 29, 18, 0, 0, 0, time.UTC), Command: "make it", MemoryBytes: 256 << 20, Repeat: 3, CPUs: 2,
			Processor: "Some CPU", RAMBytes: 24 << 30, Kernel: "Linux 6.18", Took: 1140,
			Versions: map[string]string{"runc": "1.3.6", "CRIU": "4.2.1"},
		},
		Rows: []Row{
			{Mode: "runc", Workload: Redis, Link: "200mbit", Failed: "node a: exit status 1:\n| a long\nstory"},
			{Mode: "live", Workload: Redis, Link: "unshaped", DowntimeMS: 104.6, WorstMS: 9.96, TotalMS: 1234, Bytes: 300 << 20, LostBefore: 0.123, LostAfter: -0.001},
			{Mode: "cold", Workload: Redis, Link: "unshaped", DowntimeMS: 12_345, LostAfter: 0.5},
		},
	}
}

func TestMarkdownHasEveryCellWithItsFigures(t *testing.T) {
	text := example().Markdown([]Drawing{{File: "bench/x.svg", Title: "X"}})
	for _, want := range []string{
		"Written by `make it` on 29 November 2026, 18:00 UTC",
		"| machine | 2 × Some CPU, 24 GiB;", "| kernel | Linux 6.18 |\n| CRIU | 4.2.1 |\n| runc | 1.3.6 |", "medians of 3 moves each; the whole took 19 minutes",
		"- **live**: ", "The programs, with 256 MiB each:", "- **redis**: a redis; its client",
		"| redis | unshaped | live | 105 ms | 10.0 ms | 1.23 s | 300 MiB | 12 % | 0 % |",
		"| redis | unshaped | cold | 12.3 s | 0.0 ms | 0.0 ms | 0 MiB | – | 50 % |\n| redis | unshaped | live",
		"| redis | 200mbit | runc | failed (1) |", "(1) redis over 200mbit, runc: node a: exit status 1: / a long story\n",
		"## X\n\n![X](bench/x.svg)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in it:\n%s", want, text)
		}
	}
	for _, none := range []string{"- **idle**", "- **hybrid**", "- **1gbit**"} {
		if strings.Contains(text, none) {
			t.Errorf("%q explains what was not measured", none)
		}
	}
}

func TestEveryLineOfTheTableHasAsManyColumns(t *testing.T) {
	for line := range strings.Lines(example().Markdown(nil)) {
		if n := strings.Count(line, "|"); n > 0 && n != 3 && n != 10 {
			t.Errorf("%d separators: %s", n, line)
		}
	}
}

func TestFailuresAreCountedByWhoMoves(t *testing.T) {
	table := example()
	table.Rows = append(table.Rows, Row{Mode: "hybrid", Failed: "x"}, Row{Mode: "criu-lazy", Failed: "y"})
	if godwit, byHand := table.Failures(); godwit != 1 || byHand != 2 {
		t.Errorf("%d of godwit's, %d by hand", godwit, byHand)
	}
}

func TestTheJSONComesBackAsItWas(t *testing.T) {
	b, err := json.Marshal(example())
	if err != nil {
		t.Fatal(err)
	}
	var got Table
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Markdown(nil) != example().Markdown(nil) {
		t.Errorf("%s", b)
	}
}
