// Package steering measures how wire's choice of a codec does against each fixed one: over links of several speeds, for
// memory of several kinds, on a machine that has time and on one that is busy. All of a cell is sent in turns, so
// that what else the machine does falls on all of them.
package steering

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/wire"
	"godwit.dev/godwit/pagestream/wire/pki"
)

// Config says what to measure.
type Config struct {
	// Dir is a directory for what belongs to the run; it must exist.
	Dir string
	// Repeat is how often each cell is measured; medians count.
	Repeat int
	// Links, Kinds and Busy narrow the cells down; empty ones mean all.
	Links []string
	Kinds []string
	Busy  []bool
	// Told hears of each cell when it is done.
	Told func(Cell)
}

// Cell is what came of one.
type Cell struct {
	Link, Kind string
	Busy       bool
	// Rates are bytes of memory a second by the name of the compression, medians.
	Rates map[string]float64
	// Bytes are those on the wire by the same, as a share of the memory.
	Bytes map[string]float64
	took  map[string][]float64 // seconds, by turn
	// Why is what the session said of its choice in the end.
	Why string
}

// Name says which cell it is.
func (c Cell) Name() string {
	machine := "idle"
	if c.Busy {
		machine = "busy"
	}
	return fmt.Sprintf("%s, %s, %s machine", c.Kind, c.Link, machine)
}

// String is the cell as a line of text.
func (c Cell) String() string {
	line := fmt.Sprintf("%s: %.3f of %s;", c.Name(), c.Share(), c.Best())
	for _, compression := range compressions {
		name := compression.String()
		line += fmt.Sprintf(" %s %.0f MB/s (%.3f),", name, c.Rates[name]/1e6, c.Bytes[name])
	}
	return line + " " + c.Why
}

// Best is the fixed compression that was fastest.
func (c Cell) Best() string {
	best := ""
	for name, rate := range c.Rates {
		if name != wire.Auto.String() && (best == "" || rate > c.Rates[best]) {
			best = name
		}
	}
	return best
}

// Share is how fast the choice was, as a share of the best fixed compression's speed: the median of what it was in each turn.
func (c Cell) Share() float64 {
	var shares []float64
	for i, auto := range c.took[wire.Auto.String()] {
		shares = append(shares, c.took[c.Best()][i]/auto)
	}
	return median(shares)
}

// links are what is sent over, and how much of it: a second's worth or more, so that what is sent before anything is known of the link is
// a small part.
var links = []struct {
	name string
	rate uint64 // bits a second
	size int    // bytes
}{{"unshaped", 0, 512 << 20}, {"1 Gbit/s", 1e9, 512 << 20}, {"200 Mbit/s", 2e8, 128 << 20}}

// streams are as many as a move has for pages.
const streams = 2

// chunk is what a move hands over at once.
const chunk = 256 << 10

var compressions = []wire.Compression{wire.Auto, wire.NoCompression, wire.LZ4, wire.Zstd}

// Measure measures all cells. It needs the right to make network namespaces. The error says what could not be made, or that what
// arrived is not what was sent.
func Measure(ctx context.Context, c Config) error {
	for _, l := range links {
		if len(c.Links) > 0 && !slices.Contains(c.Links, l.name) {
			continue
		}
		if err := c.over(ctx, l.name, l.rate, l.size); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

func (c Config) over(ctx context.Context, name string, rate uint64, size int) (err error) {
	b, err := newBench(c.Dir, rate, size)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, b.close()) }()
	for _, kind := range kinds {
		if len(c.Kinds) > 0 && !slices.Contains(c.Kinds, kind.name) {
			continue
		}
		kind.fill(b.memory)
		for _, busy := range []bool{false, true} {
			if len(c.Busy) > 0 && !slices.Contains(c.Busy, busy) {
				continue
			}
			cell := Cell{Link: name, Kind: kind.name, Busy: busy}
			if err := b.cell(ctx, &cell, c.Repeat); err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			c.Told(cell)
		}
	}
	return nil
}

// bench is both ends of a link.
type bench struct {
	link           *link
	memory, stored []byte
	listener       *wire.Listener
	served         chan error
	sender         *wire.Credentials
	receive        func(target) wire.Receiver
}

func newBench(dir string, rate uint64, size int) (b *bench, err error) {
	b = &bench{receive: func(t target) wire.Receiver { return t }}
	if b.memory, err = mapped(size); err != nil {
		return nil, err
	}
	if b.stored, err = mapped(size); err != nil {
		return nil, err
	}
	dir, err = os.MkdirTemp(dir, "steering")
	if err != nil {
		return nil, err
	}
	authority := filepath.Join(dir, "ca")
	if err := pki.Init(authority); err != nil {
		return nil, err
	}
	credentials := make(map[string]*wire.Credentials)
	for _, node := range []string{"a", "b"} {
		if err := pki.Issue(authority, node, nil, filepath.Join(dir, node)); err != nil {
			return nil, err
		}
		if credentials[node], err = wire.LoadCredentials(filepath.Join(dir, node)); err != nil {
			return nil, err
		}
	}
	b.sender = credentials["a"]
	if b.link, err = openLink(rate); err != nil {
		return nil, err
	}
	err = inside(b.link.ns, func() (err error) {
		b.listener, err = wire.Listen(b.link.far+":0", credentials["b"], wire.WithLogger(slog.New(slog.DiscardHandler)))
		return err
	})
	if err != nil {
		return nil, cmp.Or(err, b.link.close())
	}
	b.served = make(chan error, 1)
	go func() {
		b.served <- b.listener.Serve(context.Background(), func(wire.Hello, string) (wire.Receiver, error) {
			return b.receive(target{b.stored, addressOf(b.memory)}), nil
		})
	}()
	return b, nil
}

func (b *bench) close() error {
	err := b.listener.Close()
	return cmp.Or(err, <-b.served, b.link.close())
}

// cell measures one, each compression in turn.
func (b *bench) cell(ctx context.Context, cell *Cell, repeat int) error {
	if cell.Busy {
		defer burn(ctx)()
	}
	cell.took = make(map[string][]float64)
	cell.Rates, cell.Bytes = make(map[string]float64), make(map[string]float64)
	for turn := range repeat {
		for i := range compressions {
			compression := compressions[(i+turn)%len(compressions)]
			name := compression.String()
			begun := time.Now()
			sent, why, err := b.send(ctx, compression)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			cell.took[name] = append(cell.took[name], time.Since(begun).Seconds())
			cell.Bytes[name] = float64(sent) / float64(len(b.memory))
			if compression == wire.Auto {
				cell.Why = why
			}
		}
	}
	if !bytes.Equal(b.memory, b.stored) {
		return fmt.Errorf("what arrived is not what was sent")
	}
	for name, seconds := range cell.took {
		cell.Rates[name] = float64(len(b.memory)) / median(seconds)
	}
	return nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// send sends the memory once, in a session of its own.
func (b *bench) send(ctx context.Context, compression wire.Compression) (sent uint64, why string, err error) {
	s, err := wire.Dial(ctx, wire.DialOptions{
		Address: b.listener.Addr().String(), ServerName: "b", Credentials: b.sender, Migration: "steering",
		Streams: streams, Compression: compression,
	})
	if err != nil {
		return 0, "", err
	}
	space := pagestream.Space{Kind: pagestream.Process, ID: 1}
	var senders sync.WaitGroup
	failed := make([]error, streams)
	for i := range streams {
		senders.Go(func() {
			for at := i * chunk; at < len(b.memory) && failed[i] == nil; at += streams * chunk {
				failed[i] = s.Stream(i).Pages(space, addressOf(b.memory)+uint64(at), b.memory[at:at+chunk])
			}
		})
	}
	senders.Wait()
	why = s.Compression()
	err = cmp.Or(s.Close(), failed[0], failed[1])
	return s.Stats().WireBytes, why, err
}

// burn makes the machine busy with as many programs as it has processors, until what it returns is called.
func burn(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var programs sync.WaitGroup
	for range runtime.NumCPU() {
		programs.Go(func() { exec.CommandContext(ctx, "sh", "-c", "while :; do :; done").Run() })
	}
	return func() {
		cancel()
		programs.Wait()
	}
}
