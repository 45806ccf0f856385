package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

// What came last is what the process wrote last before it was frozen: it will want that again first. The store remembers some of it, and
// writes it into a file beside the index when it is sealed, so that who restores may put it in place before the process runs. It is a
// hint: without it, the process faults on each of these pages. The file has the last first, see encodeRanges.
const (
	recentSuffix = ".recent"
	recentMagic  = "GODWITRC"
	// MaxRecent is how many runs of pages are remembered of a space.
	MaxRecent = 256
)

// recent remembers the last runs of pages that came.
type recent struct {
	runs []pagestream.Range // a ring once there are MaxRecent
	next int                // where the next goes
}

// note remembers a run; one that goes on where the last ended makes that longer.
func (c *recent) note(r pagestream.Range) {
	if n := len(c.runs); n > 0 {
		if last := &c.runs[(c.next+n-1)%n]; last.End() == r.Start {
			last.Pages += r.Pages
			return
		}
	}
	if len(c.runs) < MaxRecent {
		c.runs = append(c.runs, r)
		return
	}
	c.runs[c.next] = r
	c.next = (c.next + 1) % MaxRecent
}

// newest lists what is remembered, the last first.
func (c *recent) newest() []pagestream.Range {
	n := len(c.runs)
	out := make([]pagestream.Range, 0, n)
	for i := range n {
		out = append(out, c.runs[(c.next+n-1-i)%n])
	}
	return out
}

func recentPath(dir string, name pagestream.Space) string {
	return filepath.Join(dir, pagesDir, fileName(name)+recentSuffix)
}

// sealRecent writes what is remembered of a process, with mu held.
func (sp *space) sealRecent() error {
	if len(sp.recent.runs) == 0 || sp.name.Kind != pagestream.Process {
		return nil
	}
	b := encodeRanges(recentMagic, sp.recent.newest())
	err := writeFile(recentPath(sp.store.dir, sp.name), func(w io.Writer) error { _, err := w.Write(b); return err })
	if errors.Is(err, unix.ENOSPC) {
		_ = os.Remove(recentPath(sp.store.dir, sp.name)) // it goes without
		return nil
	}
	if err != nil {
		return fmt.Errorf("write which pages came last: %w", err)
	}
	return nil
}

// Recent are runs of pages of the space that came last, the last first, at most MaxRecent; none if that is not known. An error wraps
// ErrIndex if the file is not as it was written.
func (r *Reader) Recent(sp *SealedSpace) ([]pagestream.Range, error) {
	b, err := os.ReadFile(recentPath(r.dir, sp.Name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("which pages of space %s came last: %w", sp.Name, err)
	}
	runs, err := decodeRanges(recentMagic, MaxRecent, b)
	if err != nil {
		return nil, fmt.Errorf("which pages of space %s came last: %w", sp.Name, err)
	}
	return runs, nil
}
