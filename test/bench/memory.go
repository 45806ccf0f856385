package main

import (
	"context"
	"maps"
	"slices"

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

// The larger redis, and the largest for which this takes no more than two and a quarter times the memory.
const (
	bigMemory  = 4 << 30
	mostMemory = 8 << 30
)

// big measures live moves of 4 GiB, and a cold one.
func (b *bench) big(ctx context.Context) error { return b.ofMemory(ctx, bigMemory, true) }

// most measures live moves of 8 GiB.
func (b *bench) most(ctx context.Context) error { return b.ofMemory(ctx, mostMemory, false) }

// ofMemory measures live moves of a redis with so much memory, and at the end a cold one.
func (b *bench) ofMemory(ctx context.Context, memory int64, cold bool) error {
	l, p, err := start(ctx, memory, false)
	if err != nil {
		return err
	}
	defer l.Close()
	for range b.repeat {
		r, err := b.move(ctx, p, trial.Config{Rate: rate})
		if err != nil {
			return err
		}
		b.of(memory).note(r, false)
	}
	if !cold {
		return nil
	}
	r, err := b.move(ctx, p, trial.Config{Rate: rate, Cold: true})
	if err == nil {
		b.of(memory).note(r, true)
	}
	return err
}

// frozen is the median of the frozen times of live moves of so much memory, milliseconds; 0 of none.
func (b *bench) frozen(memory int64) float64 {
	return medianOf(b.of(memory).live, func(r *trial.Result) float64 { return r.DowntimeMS })
}

// moves are those of one amount of memory under load.
type moves struct{ live, cold []*trial.Result }

func (m *moves) note(r *trial.Result, cold bool) {
	if cold {
		m.cold = append(m.cold, r)
	} else {
		m.live = append(m.live, r)
	}
}

// rowsOf sums up the moves of each amount of memory, the least first.
func rowsOf(all map[int64]*moves) []byMemory {
	var rows []byMemory
	for _, memory := range slices.Sorted(maps.Keys(all)) {
		m := all[memory]
		rows = append(rows, byMemory{
			MemoryBytes:    memory,
			FrozenMS:       medianOf(m.live, func(r *trial.Result) float64 { return r.DowntimeMS }),
			DowntimeMS:     medianOf(m.live, gapMS),
			ColdDowntimeMS: medianOf(m.cold, gapMS),
			BytesSent:      uint64(medianOf(m.live, func(r *trial.Result) float64 { return float64(r.WireBytesSent) })),
			TotalMS:        medianOf(m.live, func(r *trial.Result) float64 { return r.TotalMS }),
		})
	}
	return rows
}

// medianOf is the median of one of the results' figures, 0 of none.
func medianOf(results []*trial.Result, figure func(*trial.Result) float64) float64 {
	if len(results) == 0 {
		return 0
	}
	var values []float64
	for _, r := range results {
		values = append(values, figure(r))
	}
	return median(values)
}

// gapMS is the downtime as the client sees it.
func gapMS(r *trial.Result) float64 { return ms(r.Gap.Length()) }
