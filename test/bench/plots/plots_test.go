package plots

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"godwit.dev/godwit/test/bench/matrix"
)

// table has something for each plot.
func table() *matrix.Table {
	t := &matrix.Table{Sizes: []matrix.Size{
		{MemoryBytes: 64 << 20, Mode: "live", DowntimeMS: 80}, {MemoryBytes: 1 << 30, Mode: "live", DowntimeMS: 100},
		{MemoryBytes: 64 << 20, Mode: "cold", DowntimeMS: 300}, {MemoryBytes: 1 << 30, Mode: "cold", Failed: "x"},
	}}
	for _, l := range matrix.Links() {
		t.Rows = append(t.Rows, matrix.Row{
			Mode: "live", Workload: matrix.Redis, Link: l.Name,
			Rounds:  []matrix.Round{{DirtyBytes: 256 << 20}, {DirtyBytes: 0}},
			Samples: []matrix.Sample{{AtMS: -10, WaitedMS: 0.2}, {AtMS: 100, WaitedMS: 100}, {AtMS: 101, WaitedMS: 0}},
		})
	}
	return t
}

func TestPlotsAreSVGWithALineForEachWay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "docs", "bench")
	drawn, err := Write(dir, table())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"bench/downtime-by-memory.svg":   {"live", "cold", "64", "1024"},
		"bench/dirty-by-round-redis.svg": {"live, unshaped", "live, 200mbit"},
		"bench/latency-unshaped.svg":     {"live"},
		"bench/latency-1gbit.svg":        {"live"},
		"bench/latency-200mbit.svg":      {"live"},
	}
	if len(drawn) != len(want) {
		t.Errorf("drawn: %v", drawn)
	}
	for _, d := range drawn {
		texts, elements := read(t, filepath.Join(filepath.Dir(dir), d.File))
		for _, text := range want[d.File] {
			if !strings.Contains(texts, "\n"+text+"\n") {
				t.Errorf("%s does not say %q but %q", d.File, text, texts)
			}
		}
		if want[d.File] == nil || elements["svg"] != 1 || elements["path"] < 10 {
			t.Errorf("%s: elements %v", d.File, elements)
		}
	}
}

// read parses an SVG.
func read(t *testing.T, path string) (texts string, elements map[string]int) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	texts, elements = "\n", map[string]int{}
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts, elements
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			elements[token.Name.Local]++
		case xml.CharData:
			if text := strings.TrimSpace(string(token)); text != "" {
				texts += text + "\n"
			}
		}
	}
}

func TestATableWithoutFiguresHasNoPlots(t *testing.T) {
	drawn, err := Write(t.TempDir(), &matrix.Table{Rows: []matrix.Row{{Mode: "live", Workload: matrix.Redis, Link: "unshaped", Failed: "x"}}})
	if err != nil || len(drawn) != 0 {
		t.Errorf("%v, %v", drawn, err)
	}
}
