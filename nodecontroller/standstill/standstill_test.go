package standstill

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/precopy"
)

// cost is one with these parts, milliseconds.
func cost(freeze, dump, restore time.Duration) precopy.Standstill {
	return precopy.Standstill{Freeze: freeze * time.Millisecond, Dump: dump * time.Millisecond, Restore: restore * time.Millisecond}
}

func move(pod, peer string, containers int, c precopy.Standstill) Move {
	return Move{Pod: pod, Peer: peer, Containers: containers, Cost: c}
}

func TestExpect(t *testing.T) {
	small, big := cost(1, 50, 60), cost(5, 200, 300)
	var many []Move
	for range kept {
		many = append(many, move("ns/other", "b", 1, small))
	}
	for _, c := range []struct {
		name  string
		moves []Move
		like  Move
		want  precopy.Standstill
	}{
		{"nothing is known", nil, move("ns/p", "b", 1, cost(0, 0, 0)), precopy.Standstill{}},
		{"one move", []Move{move("ns/q", "c", 3, big)}, move("ns/p", "b", 1, cost(0, 0, 0)), big},
		{"its own last move against one of another", []Move{move("ns/p", "b", 1, big), move("ns/q", "b", 1, small)}, move("ns/p", "b", 1, small), big},
		{"pods with as many containers", []Move{move("ns/q", "c", 3, big), move("ns/r", "c", 1, small)}, move("ns/p", "b", 3, small), big},
		{"moves to the same node", []Move{move("ns/q", "b", 1, big), move("ns/r", "c", 1, small)}, move("ns/p", "b", 1, small), big},
		{"the newer of two that are alike", []Move{move("ns/p", "b", 1, small), move("ns/p", "b", 1, big)}, move("ns/p", "b", 1, small), big},
		{"one in three that something happened to", []Move{move("ns/p", "b", 1, small), move("ns/p", "b", 1, cost(1, 50, 9000)), move("ns/p", "b", 1, small)}, move("ns/p", "b", 1, big), small},
		{"many others against two of its own", append(many[2:len(many):len(many)], move("ns/p", "b", 1, big), move("ns/p", "b", 1, big)), move("ns/p", "b", 1, small), big},
		{"a pod that came late says nothing", []Move{{Pod: "ns/p", Peer: "b", Containers: 1, Late: true, Cost: big}}, move("ns/p", "b", 1, small), precopy.Standstill{}},
	} {
		if got := expect(c.moves, c.like); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestWhatIsLearnedIsKeptAndBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	m := Open(path, slog.New(slog.DiscardHandler))
	for i := range 2 * kept {
		if err := m.Note(move(fmt.Sprintf("ns/p%d", i), "b", 1, cost(1, 50, time.Duration(i+1)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Note(move("ns/none", "b", 1, precopy.Standstill{})); err != nil {
		t.Fatal(err)
	}
	again := Open(path, slog.New(slog.DiscardHandler))
	if len(m.moves) != kept || len(again.moves) != kept {
		t.Errorf("%d moves, %d after a restart", len(m.moves), len(again.moves))
	}
	like := move(fmt.Sprintf("ns/p%d", 2*kept-1), "b", 1, precopy.Standstill{})
	if now, then := m.Expect(like), again.Expect(like); now != then || now.Restore < kept*time.Millisecond {
		t.Errorf("%+v, after a restart %+v", now, then)
	}
	if names, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(names) != 1 {
		t.Errorf("files %v", names)
	}
}

func TestAFileThatIsDamagedIsBegunAnewWithAWarning(t *testing.T) {
	for _, text := range []string{"", "{", `[{"pod":"p"}]`, `[{"containers":1,"cost":{"Freeze":-1}}]`, `[{"containers":1,"cost":{"Dump":1e30}}]`, `[{"containers":1,"cost":{"Dump":36000000000001}}]`} {
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		m := Open(path, slog.New(slog.NewTextHandler(&log, nil)))
		if len(m.moves) != 0 || !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), path) {
			t.Errorf("%q: %d moves, log %q", text, len(m.moves), &log)
		}
		if err := m.Note(move("ns/p", "b", 1, cost(1, 2, 3))); err != nil {
			t.Fatal(err)
		}
		if again := Open(path, slog.New(slog.DiscardHandler)); len(again.moves) != 1 {
			t.Errorf("%q: %d moves after the next one", text, len(again.moves))
		}
	}
	var log bytes.Buffer
	Open(filepath.Join(t.TempDir(), FileName), slog.New(slog.NewTextHandler(&log, nil)))
	if log.Len() > 0 {
		t.Errorf("without a file it says %q", &log)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`[{"pod":"ns/p","peer":"b","containers":1,"cost":{"Freeze":1000000,"Dump":50000000,"Restore":60000000}}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		moves, err := load(path)
		if err != nil && moves != nil {
			t.Errorf("%d moves and %v", len(moves), err)
		}
		for _, m := range moves {
			if c := m.Cost; c.Freeze < 0 || c.Dump < 0 || c.Restore < 0 || c.Freeze+c.Dump+c.Restore > 3*longest {
				t.Errorf("%+v", m)
			}
		}
	})
}
