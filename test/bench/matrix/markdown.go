package matrix

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Drawing is a plot that was drawn.
type Drawing struct {
	// File is its path beside the Markdown.
	File, Title string
}

// columns explains the table.
const columns = "All times are the client's, who is on the same machine, waits for an answer for a tenth of a second at most, and then asks again wherever the program answers:\n\n" +
	"- **downtime**: its longest time without an answer around the cutover.\n" +
	"- **worst after**: its longest time without an answer from then until a second after the move's end, while memory is filled in or fetched.\n" +
	"- **total**: from the command until nothing is left at the source.\n" +
	"- **sent**: from the source to the destination, with the headers of IP and TCP, counted by the source's kernel.\n" +
	"- **lost before, lost after**: the share of its throughput that the client lost from the command to the freeze (– if that took less than a fifth of a second)\n" +
	"  and in the three seconds after the downtime, compared with the second before the command. Some percent are noise.\n"

// Markdown is the table with all that there is to know to make it again, and the plots.
func (t *Table) Markdown(drawn []Drawing) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmark\n\nWritten by `%s` on %s; not by hand.\n\n", t.About.Command, t.About.Measured.UTC().Format("2 January 2006, 15:04 MST"))
	t.About.write(&b)
	b.WriteString("\nThe ways to move:\n\n")
	for _, m := range Modes() {
		if t.has(func(r Row) bool { return r.Mode == m.Name }) {
			fmt.Fprintf(&b, "- **%s**: %s\n", m.Name, m.Title)
		}
	}
	fmt.Fprintf(&b, "\nThe programs, with %d MiB each:\n\n", t.About.MemoryBytes>>20)
	for _, w := range Workloads() {
		if t.has(func(r Row) bool { return r.Workload == w.Name }) {
			fmt.Fprintf(&b, "- **%s**: %s\n", w.Name, w.Title)
		}
	}
	b.WriteString("\nThe links between the nodes:\n\n")
	for _, l := range Links() {
		if t.has(func(r Row) bool { return r.Link == l.Name }) {
			fmt.Fprintf(&b, "- **%s**: %s\n", l.Name, l.Title)
		}
	}
	b.WriteString("\n" + columns + "\n")
	t.rows(&b)
	for _, d := range drawn {
		fmt.Fprintf(&b, "\n## %[1]s\n\n![%[1]s](%[2]s)\n", d.Title, d.File)
	}
	return b.String()
}

func (t *Table) has(wanted func(Row) bool) bool { return slices.ContainsFunc(t.Rows, wanted) }

// write writes what was measured on.
func (a About) write(b *strings.Builder) {
	moves := "one move each"
	if a.Repeat > 1 {
		moves = fmt.Sprintf("medians of %d moves each", a.Repeat)
	}
	fmt.Fprintf(b, "| | |\n|---|---|\n| machine | %d × %s, %.0f GiB; both nodes, the network and the clients are on it |\n", a.CPUs, a.Processor, float64(a.RAMBytes)/(1<<30))
	fmt.Fprintf(b, "| load average before | %.2f |\n| kernel | %s |\n", a.Load, a.Kernel)
	for _, name := range slices.Sorted(maps.Keys(a.Versions)) {
		fmt.Fprintf(b, "| %s | %s |\n", name, a.Versions[name])
	}
	fmt.Fprintf(b, "| cells | %s; the whole took %.0f minutes |\n", moves, a.Took/60)
}

// rows writes the table itself, sorted by programs, links and ways, and below it why cells have no figures.
func (t *Table) rows(b *strings.Builder) {
	b.WriteString("| program | link | way | downtime | worst after | total | sent | lost before | lost after |\n|---|---|---|--:|--:|--:|--:|--:|--:|\n")
	var failed []Row
	for _, r := range t.sorted() {
		fmt.Fprintf(b, "| %s | %s | %s ", r.Workload, r.Link, r.Mode)
		if r.Failed != "" {
			failed = append(failed, r)
			fmt.Fprintf(b, "| failed (%d) | | | | | |\n", len(failed))
			continue
		}
		before := share(r.LostBefore)
		if r.LostBefore == 0 {
			before = "–"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", length(r.DowntimeMS), length(r.WorstMS), length(r.TotalMS), mebibytes(r.Bytes), before, share(r.LostAfter))
	}
	for i, r := range failed {
		fmt.Fprintf(b, "\n(%d) %s over %s, %s: %s\n", i+1, r.Workload, r.Link, r.Mode, oneLine(r.Failed))
	}
}

// sorted are the rows by programs, links and ways, each in its own order.
func (t *Table) sorted() []Row {
	place := map[string]int{}
	for i, w := range Workloads() {
		place["w "+w.Name] = i
	}
	for i, l := range Links() {
		place["l "+l.Name] = i
	}
	for i, m := range Modes() {
		place["m "+m.Name] = i
	}
	at := func(r Row) int {
		return place["w "+r.Workload]*10000 + place["l "+r.Link]*100 + place["m "+r.Mode]
	}
	return slices.SortedStableFunc(slices.Values(t.Rows), func(a, b Row) int { return at(a) - at(b) })
}

// String is a row for a terminal.
func (r Row) String() string {
	cell := fmt.Sprintf("%-9s %-9s %-9s", r.Workload, r.Link, r.Mode)
	if r.Failed != "" {
		return cell + " failed: " + oneLine(r.Failed)
	}
	return fmt.Sprintf("%s downtime %8s, worst after %8s, total %8s, sent %9s, lost before %5s, after %5s", cell,
		length(r.DowntimeMS), length(r.WorstMS), length(r.TotalMS), mebibytes(r.Bytes), share(r.LostBefore), share(r.LostAfter))
}

// length writes milliseconds with three digits that mean something.
func length(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	case ms < 10_000:
		return fmt.Sprintf("%.2f s", ms/1000)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }

// share writes a share in percent. Adding 0 makes a 0 of a -0.
func share(x float64) string { return fmt.Sprintf("%.0f %%", math.Round(100*x)+0) }

// maxReason is how much of a reason is told, bytes: the JSON has all of it.
const maxReason = 400

// oneLine is a reason that can stand in a line.
func oneLine(reason string) string {
	line := strings.ReplaceAll(strings.Join(strings.Fields(reason), " "), "|", "/")
	if len(line) > maxReason {
		line = strings.ToValidUTF8(line[:maxReason], "") + " ..."
	}
	return line
}
