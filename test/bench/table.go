package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/test/bench/cell"
	"godwit.dev/godwit/test/bench/matrix"
	"godwit.dev/godwit/test/bench/plots"
	"godwit.dev/godwit/test/figure"
)

// tableOptions are the flags of step table.
type tableOptions struct {
	memory, repeat          int // MiB; moves of each cell
	sizes                   string
	modes, workloads, links string
	docs                    string
}

func (o *tableOptions) register(f *flag.FlagSet) {
	f.IntVar(&o.memory, "table-memory", 128, "what the programs of step table have, `MiB`")
	f.IntVar(&o.repeat, "table-repeat", 1, "moves of each of its cells; the medians count")
	f.StringVar(&o.sizes, "table-sizes", "64,256,1024", "what redis has in its plot of downtime by memory, `MiB`, with commas; none: no plot")
	f.StringVar(&o.modes, "table-modes", "", "its modes, with commas: "+names(matrix.Modes(), modeName))
	f.StringVar(&o.workloads, "table-workloads", "", "its programs, with commas: "+names(matrix.Workloads(), workloadName))
	f.StringVar(&o.links, "table-links", "", "its links, with commas: "+names(matrix.Links(), linkName))
	f.StringVar(&o.docs, "docs", "", "`directory` for the table as bench.md and for its plots; empty: beside the figures")
}

func modeName(m matrix.Mode) string         { return m.Name }
func workloadName(w matrix.Workload) string { return w.Name }
func linkName(l matrix.Link) string         { return l.Name }

func names[T any](all []T, name func(T) string) string {
	var list []string
	for _, one := range all {
		list = append(list, name(one))
	}
	return strings.Join(list, ", ")
}

// config is what is to be measured.
func (o tableOptions) config() (c cell.Config, sizes []int64, err error) {
	c = cell.Config{LabDir: labDir, Memory: int64(o.memory) << 20, Repeat: max(o.repeat, 1)}
	if c.Modes, err = matrix.Choose(matrix.Modes(), modeName, o.modes); err != nil {
		return c, nil, err
	}
	if c.Workloads, err = matrix.Choose(matrix.Workloads(), workloadName, o.workloads); err != nil {
		return c, nil, err
	}
	if c.Links, err = matrix.Choose(matrix.Links(), linkName, o.links); err != nil {
		return c, nil, err
	}
	for f := range strings.FieldsFuncSeq(o.sizes, func(r rune) bool { return r == ',' }) {
		mib, err := strconv.ParseUint(f, 10, 20)
		if err != nil || mib == 0 {
			return c, nil, fmt.Errorf("size %q: want MiB", f)
		}
		sizes = append(sizes, int64(mib)<<20)
	}
	return c, sizes, nil
}

// measureTable compares all ways to move with each other, as a client sees them.
func (b *bench) measureTable(ctx context.Context) error {
	c, sizes, err := b.tableOptions.config()
	if err != nil {
		return err
	}
	t := &matrix.Table{}
	if t.About, err = about(ctx, c, b.tableOptions); err != nil {
		return err
	}
	c.Told = func(r matrix.Row) {
		t.Rows = append(t.Rows, r)
		fmt.Println(" ", r)
	}
	err = cell.Measure(ctx, c)
	if err == nil {
		t.Sizes, err = measureSizes(ctx, c, sizes)
	}
	t.About.Took = time.Since(t.About.Measured).Round(time.Second).Seconds()
	if err := errors.Join(err, b.keepTable(t)); err != nil {
		return err
	}
	b.table = t
	return b.writeTable(t)
}

// sizeModes are the ways that are compared by memory.
const sizeModes = "cold,live,hybrid,runc,criu-lazy"

// measureSizes moves a redis under load with one amount of memory after the other.
func measureSizes(ctx context.Context, c cell.Config, sizes []int64) ([]matrix.Size, error) {
	var err error
	if c.Modes, err = matrix.Choose(matrix.Modes(), modeName, sizeModes); err != nil {
		return nil, err
	}
	c.Workloads, c.Links = matrix.Workloads()[:1], matrix.Links()[:1]
	var all []matrix.Size
	for _, c.Memory = range sizes {
		c.Told = func(r matrix.Row) {
			all = append(all, matrix.Size{MemoryBytes: c.Memory, Mode: r.Mode, DowntimeMS: r.DowntimeMS, Failed: r.Failed})
			fmt.Printf("  %d MiB: %v\n", c.Memory>>20, r)
		}
		if err := cell.Measure(ctx, c); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// keepTable writes it as JSON beside the figures, also one that was broken off.
func (b *bench) keepTable(t *matrix.Table) error {
	return figure.WriteReport(filepath.Join(filepath.Dir(b.out), "bench-table.json"), t)
}

// writeTable writes it as Markdown with plots.
func (b *bench) writeTable(t *matrix.Table) error {
	docs := b.docs
	if docs == "" {
		docs = filepath.Join(filepath.Dir(b.out), "table")
	}
	drawn, err := plots.Write(filepath.Join(docs, "bench"), t)
	if err != nil {
		return err
	}
	text := t.Markdown(drawn)
	fmt.Print("\n", text)
	return os.WriteFile(filepath.Join(docs, "bench.md"), []byte(text), 0o644)
}

// about is what there is to say of the machine and the programs.
func about(ctx context.Context, c cell.Config, o tableOptions) (a matrix.About, err error) {
	a = machine()
	a.Measured, a.MemoryBytes, a.Repeat = time.Now(), c.Memory, c.Repeat
	a.Command = o.command()
	a.Versions, err = versions(ctx)
	return a, err
}

// command makes the table again.
func (o tableOptions) command() string {
	var usual tableOptions
	usual.register(flag.NewFlagSet("", flag.ContinueOnError))
	const bare = "go run ./test/bench -only table -docs docs"
	command := bare
	add := func(name string, value, usual any) {
		if value != usual {
			command += fmt.Sprintf(" -table-%s=%v", name, value)
		}
	}
	add("memory", o.memory, usual.memory)
	add("repeat", o.repeat, usual.repeat)
	add("sizes", o.sizes, usual.sizes)
	add("modes", o.modes, usual.modes)
	add("workloads", o.workloads, usual.workloads)
	add("links", o.links, usual.links)
	if command == bare {
		return "make bench-docs"
	}
	return command
}
