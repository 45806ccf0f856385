package main

import (
	"context"
	"fmt"
	"os"

	"godwit.dev/godwit/test/bench/steering"
)

const (
	steeringTurns = 3
	copiesPairs   = 30
	// steeredShare is the least part of the best fixed codec's speed that the choice of codecs must have on an idle machine. It learns in the
	// first tenth of a second of what each cell sends in one to some seconds; on a busy machine turns differ by more than that.
	steeredShare = 0.9
	// copiesCost is how much more of the processor the rounds may take over a link without a limit as deltas are allowed.
	copiesCost = 1.02
)

// steered measures the choice of codecs against each fixed one, and what it costs to be ready for deltas.
func (b *bench) steered(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "godwit-steering")
	if err != nil {
		return fmt.Errorf("directory for certificates: %w", err)
	}
	defer os.RemoveAll(dir)
	err = steering.Measure(ctx, steering.Config{Dir: dir, Repeat: steeringTurns, Told: func(c steering.Cell) {
		b.steering = append(b.steering, c)
		fmt.Printf("  %s\n", c)
	}})
	if err != nil {
		return err
	}
	copies, err := steering.MeasureCopies(ctx, dir, copiesPairs)
	if err != nil {
		return err
	}
	b.copies = &copies
	return nil
}
