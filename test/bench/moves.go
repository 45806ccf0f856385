package main

import (
	"context"
	"maps"
	"slices"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

// byMemory is how moves of one amount of memory went: medians.
type byMemory struct {
	MemoryBytes int64 `json:"memory_bytes"`
	// FrozenMS is from the freeze until the pod runs again, DowntimeMS what its client saw; ColdDowntimeMS the same of cold moves,
	// 0 without any. Milliseconds.
	FrozenMS       float64 `json:"frozen_ms"`
	DowntimeMS     float64 `json:"downtime_ms"`
	ColdDowntimeMS float64 `json:"cold_downtime_ms"`
	BytesSent      uint64  `json:"bytes_sent"`
	TotalMS        float64 `json:"total_ms"`
}

// What the bench moves: a redis, a larger one, and the largest for which this takes no more than two and a quarter times the memory.
const (
	smallMemory = 1 << 30
	bigMemory   = 4 << 30
	mostMemory  = 8 << 30
)

// moves are those of one pod under load.
type moves struct{ live, cold []*trial.Result }

// series is a pod that is moved to and fro.
type series struct {
	link       lab.Shape
	memory     int64 // of its redis, bytes
	ticker     bool  // beside it
	live, cold int   // moves, in turns; where there are more live ones, they come first
}

// moves makes the moves of a series.
func (b *bench) moves(ctx context.Context, s series) (*moves, error) {
	l, p, err := start(ctx, s.link, s.memory, s.ticker)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	m := new(moves)
	for turn := range s.live {
		r, err := b.move(ctx, p, trial.Config{Rate: rate})
		if err != nil {
			return nil, err
		}
		m.live = append(m.live, r)
		if turn < s.live-s.cold {
			continue
		}
		if r, err = b.move(ctx, p, trial.Config{Rate: rate, Cold: true}); err != nil {
			return nil, err
		}
		m.cold = append(m.cold, r)
	}
	return m, nil
}

// small measures live and cold moves of 1 GiB.
func (b *bench) small(ctx context.Context) (err error) {
	b.byMemory[smallMemory], err = b.moves(ctx, series{memory: smallMemory, live: b.repeat, cold: b.repeat})
	return err
}

// big measures live moves of 4 GiB, and a cold one.
func (b *bench) big(ctx context.Context) (err error) {
	b.byMemory[bigMemory], err = b.moves(ctx, series{memory: bigMemory, live: b.repeat, cold: 1})
	return err
}

// most measures live moves of 8 GiB.
func (b *bench) most(ctx context.Context) (err error) {
	b.byMemory[mostMemory], err = b.moves(ctx, series{memory: mostMemory, live: b.repeat})
	return err
}

// overGigabit measures live moves of 1 GiB, and a cold one, over a link of 1 Gbit/s.
func (b *bench) overGigabit(ctx context.Context) (err error) {
	b.gigabit, err = b.moves(ctx, series{link: lab.Shape{Rate: gigabit}, memory: smallMemory, live: b.repeat, cold: 1})
	return err
}

// ticking measures how long a 1 ms ticker in a second container stalls while the pod's memory is copied under load.
func (b *bench) ticking(ctx context.Context) (err error) {
	b.ticked, err = b.moves(ctx, series{memory: smallMemory, ticker: true, live: b.repeat})
	return err
}

// of are the moves of one amount of memory: none, if they have not been made.
func (b *bench) of(memory int64) moves {
	if m := b.byMemory[memory]; m != nil {
		return *m
	}
	return moves{}
}

// frozen is the median of the frozen times of live moves of so much memory, milliseconds; 0 of none.
func (b *bench) frozen(memory int64) float64 {
	return medianOf(b.of(memory).live, frozenMS)
}

// rowsOf sums up the moves of each amount of memory, the least first.
func rowsOf(all map[int64]*moves) []byMemory {
	var rows []byMemory
	for _, memory := range slices.Sorted(maps.Keys(all)) {
		m := all[memory]
		rows = append(rows, byMemory{
			MemoryBytes:    memory,
			FrozenMS:       medianOf(m.live, frozenMS),
			DowntimeMS:     medianOf(m.live, gapMS),
			ColdDowntimeMS: medianOf(m.cold, gapMS),
			BytesSent:      uint64(medianOf(m.live, func(r *trial.Result) float64 { return float64(r.WireBytesSent) })),
			TotalMS:        medianOf(m.live, func(r *trial.Result) float64 { return r.TotalMS }),
		})
	}
	return rows
}

// each is one of the results' figures.
func each(results []*trial.Result, figure func(*trial.Result) float64) []float64 {
	var values []float64
	for _, r := range results {
		values = append(values, figure(r))
	}
	return values
}

// medianOf is the median of one of the results' figures, 0 of none.
func medianOf(results []*trial.Result, figure func(*trial.Result) float64) float64 {
	if len(results) == 0 {
		return 0
	}
	return median(each(results, figure))
}

// frozenMS is how long the pod stood still as godwit has it, milliseconds.
func frozenMS(r *trial.Result) float64 { return r.DowntimeMS }

// gapMS is the downtime as the client sees it, milliseconds.
func gapMS(r *trial.Result) float64 { return ms(r.Gap.Length()) }

// stallMS is the longest stall of the ticker in the rounds, milliseconds.
func stallMS(r *trial.Result) float64 { return ms(r.LongestStall()) }

// worstMS is the client's longest wait in the second after the downtime, milliseconds.
func worstMS(r *trial.Result) float64 { return ms(r.Worst.Length()) }

// afterOverBefore is what the client got done after a move, as a share of before.
func afterOverBefore(r *trial.Result) float64 { return float64(r.After) / float64(max(r.Before, 1)) }
