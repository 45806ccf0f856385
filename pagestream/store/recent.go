package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

// What came last is what the process wrote last before it was frozen: it will want that again first. The store remembers some of it, and
// writes it into a file beside the index when it is sealed, so that who restores may put it in place before the process runs. It is a
// hint: without it, the process faults on each of these pages.
//
// The file, little endian: magic, 8 bytes; for each run, the last first, vaddr u64 and pages u64; CRC-32C of all before, u32.
const (
	recentSuffix = ".recent"
	recentMagic  = "GODWITRC"
	recentRun    = 16
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
	b := encodeRecent(sp.recent.newest())
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

func encodeRecent(runs []pagestream.Range) []byte {
	b := append(make([]byte, 0, len(recentMagic)+recentRun*len(runs)+4), recentMagic...)
	for _, r := range runs {
		b = binary.LittleEndian.AppendUint64(b, r.Start)
		b = binary.LittleEndian.AppendUint64(b, r.Pages)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeRecent reads the file; its runs are valid, and nothing else is known of them.
func decodeRecent(b []byte) ([]pagestream.Range, error) {
	bad := func(format string, args ...any) ([]pagestream.Range, error) {
		return nil, fmt.Errorf("pages that came last: "+format+": %w", append(args, ErrIndex)...)
	}
	body := len(b) - len(recentMagic) - 4
	if body < 0 || body%recentRun != 0 || body/recentRun > MaxRecent || string(b[:len(recentMagic)]) != recentMagic {
		return bad("%d bytes are no such file", len(b))
	}
	if crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return bad("checksum differs")
	}
	runs := make([]pagestream.Range, 0, body/recentRun)
	for at := len(recentMagic); at < len(b)-4; at += recentRun {
		r := pagestream.Range{Start: binary.LittleEndian.Uint64(b[at:]), Pages: binary.LittleEndian.Uint64(b[at+8:])}
		if err := r.Valid(); err != nil {
			return bad("%v", err)
		}
		runs = append(runs, r)
	}
	return runs, nil
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
	runs, err := decodeRecent(b)
	if err != nil {
		return nil, fmt.Errorf("space %s: %w", sp.Name, err)
	}
	return runs, nil
}
