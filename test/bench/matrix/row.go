package matrix

import (
	"cmp"
	"slices"
	"time"
)

// Table is everything that was measured, as the JSON has it.
type Table struct {
	About About  `json:"about"`
	Rows  []Row  `json:"rows"`
	Sizes []Size `json:"by_memory,omitempty"`
}

// About says where and how a table was measured.
type About struct {
	Measured    time.Time         `json:"measured"`
	Command     string            `json:"command"` // that makes the table again
	MemoryBytes int64             `json:"memory_bytes"`
	Repeat      int               `json:"repeat"` // moves of each cell; medians count
	CPUs        int               `json:"cpus"`
	Processor   string            `json:"processor"`
	RAMBytes    uint64            `json:"ram_bytes"`
	Kernel      string            `json:"kernel"`
	Versions    map[string]string `json:"versions"` // of criu, runc, containerd, godwit
	// Load is the machine's load average over a minute before the first cell.
	Load float64 `json:"load_before"`
	// Took is how long all of it took, seconds.
	Took float64 `json:"took_s"`
}

// Row is one cell of the table: the medians of its moves. Times are in milliseconds.
type Row struct {
	Mode     string `json:"mode"`
	Workload string `json:"workload"`
	Link     string `json:"link"`
	// Failed is why there are no figures, empty if there are.
	Failed string `json:"failed,omitempty"`
	// DowntimeMS is how long the client was without an answer around the cutover, WorstMS its longest wait for one from then until a
	// second after the move's end.
	DowntimeMS float64 `json:"downtime_ms"`
	WorstMS    float64 `json:"worst_latency_after_ms"`
	// TotalMS is from the asking until nothing is left at the source.
	TotalMS float64 `json:"total_ms"`
	// Bytes went from the source to the destination, with the headers of IP and TCP.
	Bytes uint64 `json:"bytes"`
	// LostBefore is the share of its throughput that the client lost before the freeze, LostAfter that in the three seconds after the downtime.
	// Noise makes them less than 0 too.
	LostBefore float64 `json:"throughput_lost_before"`
	LostAfter  float64 `json:"throughput_lost_after"`
	// FrozenMS is how long the program stood still as godwit has it; 0 if it was moved by hand.
	FrozenMS float64 `json:"frozen_ms,omitempty"`
	// Rounds are those of the first of the moves, and StopReason is why they ended.
	Rounds     []Round `json:"rounds,omitempty"`
	StopReason string  `json:"stop_reason,omitempty"`
	// Samples are the client's waits around the cutover of the first of the moves.
	Samples []Sample `json:"samples,omitempty"`
}

// Round is a round of copying before the freeze.
type Round struct {
	DirtyBytes uint64  `json:"dirty_bytes"` // what it found to copy
	WireBytes  uint64  `json:"wire_bytes"`
	DurationMS float64 `json:"duration_ms"`
}

// Size is how redis moved with one amount of memory, its client writing 5,000 values a second over the unshaped link.
type Size struct {
	MemoryBytes int64   `json:"memory_bytes"`
	Mode        string  `json:"mode"`
	DowntimeMS  float64 `json:"downtime_ms"`
	Failed      string  `json:"failed,omitempty"`
}

// Medians is the row of several moves of one cell, one at least. What cannot have a median is the first move's.
func Medians(moves []Row) Row {
	r := moves[0]
	r.DowntimeMS = medianOf(moves, func(r Row) float64 { return r.DowntimeMS })
	r.WorstMS = medianOf(moves, func(r Row) float64 { return r.WorstMS })
	r.TotalMS = medianOf(moves, func(r Row) float64 { return r.TotalMS })
	r.Bytes = medianOf(moves, func(r Row) uint64 { return r.Bytes })
	r.LostBefore = medianOf(moves, func(r Row) float64 { return r.LostBefore })
	r.LostAfter = medianOf(moves, func(r Row) float64 { return r.LostAfter })
	r.FrozenMS = medianOf(moves, func(r Row) float64 { return r.FrozenMS })
	return r
}

// medianOf is the upper median of a figure of the moves, of which there is one at least.
func medianOf[T cmp.Ordered](moves []Row, figure func(Row) T) T {
	var values []T
	for _, m := range moves {
		values = append(values, figure(m))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// Failures is how many cells have no figures: of Godwit's, and of those by hand.
func (t *Table) Failures() (godwit, byHand int) {
	for _, r := range t.Rows {
		i := slices.IndexFunc(Modes(), func(m Mode) bool { return m.Name == r.Mode })
		switch {
		case r.Failed == "":
		case i >= 0 && Modes()[i].By == Godwit:
			godwit++
		default:
			byHand++
		}
	}
	return godwit, byHand
}
