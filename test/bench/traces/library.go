package traces

import (
	"embed"
	"fmt"
	"path"
	"strings"
	"time"
)

//go:embed testdata/*.trace
var recorded embed.FS

// All is every trace that rules are compared on: the recorded ones, and two that are made
// here.
func All() ([]*Trace, error) {
	files, err := recorded.ReadDir("testdata")
	if err != nil {
		return nil, err
	}
	var all []*Trace
	for _, entry := range files {
		f, err := recorded.Open(path.Join("testdata", entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("trace %s: %w", entry.Name(), err)
		}
		t, err := Read(strings.TrimSuffix(entry.Name(), ".trace"), f)
		f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return append(all,
		Rewriter(1<<30, 50e6, 22*time.Second),
		Bursts(512<<20, 128<<20, 4*time.Second, 1500*time.Millisecond, 3000, 20*time.Second)), nil
}
