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

// Hopeless are programs whose little memory is rewritten faster than the slowest link carries it, the
// last two faster than any but the fastest: no round makes the last copy much shorter, and the best that can be done is to copy them twice.
func Hopeless() []*Trace {
	const length = 20 * time.Second
	named := func(name string, t *Trace) *Trace { t.Name = name; return t }
	return []*Trace{
		named("128 MiB, 52 MB/s", Rewriter(128<<20, 52e6, length)),
		named("256 MiB, 52 MB/s", Rewriter(256<<20, 52e6, length)),
		named("128 MiB, 200 MB/s", Rewriter(128<<20, 200e6, length)),
		named("64 MiB, 1 GB/s", Rewriter(64<<20, 1e9, length)),
		named("64 MiB, scattered", Bursts(64<<20, 64<<20, length, length, 8000, length)),
	}
}
