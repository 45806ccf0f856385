// Package traces holds what real programs wrote to their memory, moment by moment, and
// replays it against the rules that end the rounds of a migration: the same decisions
// as a migration's, package precopy's, on a link and with costs that are given. What a
// real migration takes is measured elsewhere in the bench.
package traces

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/klauspost/compress/zstd"

	"godwit.dev/godwit/pagestream"
)

// Trace is which pages a program wrote in each of many short times, one after the
// other. Pages are numbered from 0 in the order of their addresses.
type Trace struct {
	Name     string
	Interval time.Duration // each of the times
	Pages    uint64        // of the program's memory
	Dirty    [][]Run       // written in each of them, ascending
}

// Run is a run of pages.
type Run struct {
	First, Pages uint64
}

// Duration is how long the trace lasts.
func (t *Trace) Duration() time.Duration { return t.Interval * time.Duration(len(t.Dirty)) }

// Bytes is the size of the program's memory.
func (t *Trace) Bytes() uint64 { return t.Pages * pagestream.PageSize }

// magic begins a file: this format has no successor yet.
const magic = "godwit trace 1\n"

// Bounds of what is read, far above any trace that is worth keeping.
const (
	maxPages     = 1 << 24
	maxIntervals = 1 << 16
)

// ErrFormat is wrapped by the error of a file that is no trace.
var ErrFormat = errors.New("not a trace")

// Write writes the trace: numbers of variable length, compressed.
func (t *Trace) Write(w io.Writer) error {
	if _, err := io.WriteString(w, magic); err != nil {
		return fmt.Errorf("trace %s: %w", t.Name, err)
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return fmt.Errorf("trace %s: %w", t.Name, err)
	}
	var b []byte
	b = binary.AppendUvarint(b, uint64(t.Interval))
	b = binary.AppendUvarint(b, t.Pages)
	b = binary.AppendUvarint(b, uint64(len(t.Dirty)))
	for _, runs := range t.Dirty {
		b = binary.AppendUvarint(b, uint64(len(runs)))
		end := uint64(0)
		for _, r := range runs {
			b = binary.AppendUvarint(b, r.First-end)
			b = binary.AppendUvarint(b, r.Pages-1)
			end = r.First + r.Pages
		}
	}
	_, err = z.Write(b)
	if err := errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("trace %s: %w", t.Name, err)
	}
	return nil
}

// Read reads what Write wrote.
func Read(name string, r io.Reader) (*Trace, error) {
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != magic {
		return nil, fmt.Errorf("trace %s: %w", name, ErrFormat)
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, fmt.Errorf("trace %s: %w", name, err)
	}
	defer z.Close()
	d := numbers{r: bufio.NewReader(z)}
	t := &Trace{Name: name, Interval: time.Duration(d.next(math.MaxInt32 * 1000))}
	t.Pages = d.next(maxPages)
	n := d.next(maxIntervals)
	for i := uint64(0); i < n && d.err == nil; i++ {
		t.Dirty = append(t.Dirty, d.runs(t.Pages))
	}
	if d.err == nil && (t.Interval <= 0 || t.Pages == 0 || n == 0) {
		d.err = ErrFormat
	}
	if d.err != nil {
		return nil, fmt.Errorf("trace %s: %w", name, d.err)
	}
	return t, nil
}

// numbers reads numbers until the first error.
type numbers struct {
	r   *bufio.Reader
	err error
}

func (d *numbers) next(most uint64) uint64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(d.r)
	if err == nil && n > most {
		err = fmt.Errorf("%d where at most %d may be: %w", n, most, ErrFormat)
	}
	d.err = err
	return n
}

func (d *numbers) runs(pages uint64) []Run {
	var runs []Run
	end := uint64(0)
	for n := d.next(pages); n > 0 && d.err == nil; n-- {
		first := end + d.next(pages)
		count := d.next(pages) + 1
		if d.err == nil && first+count > pages {
			d.err = fmt.Errorf("page %d of %d: %w", first+count, pages, ErrFormat)
		}
		runs = append(runs, Run{first, count})
		end = first + count
	}
	return runs
}
