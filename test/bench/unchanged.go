package main

import (
	"context"
	"fmt"
	"strconv"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// The rewriters whose moves show what it gains that pages are not sent again which the
// destination has: they write nearly what the link takes, so that rounds find much.
const (
	unchangedMiB    = 64
	unchangedRate   = 20 // MiB a second
	unchangedRounds = 6
)

// unchanged is what two moves sent over the link, as multiples of the pod's memory: of a
// program that writes the same values again, and of one that writes others.
type unchanged struct{ same, others float64 }

// unchangedPages measures how many bytes a program costs that writes what is there already.
func (b *bench) unchangedPages(ctx context.Context) error {
	u := new(unchanged)
	for _, c := range []struct {
		name string
		more []string
		sent *float64
	}{{"the same values", []string{"0", "same"}, &u.same}, {"other values", nil, &u.others}} {
		result, err := moveRewriter(ctx, c.more)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		*c.sent = float64(result.WireBytesSent) / float64(result.MemoryBytes)
		fmt.Printf("  %d MiB rewritten with %s: %.2f times the memory sent in %d rounds, downtime %.0f ms, %s\n",
			unchangedMiB, c.name, *c.sent, len(result.Rounds), result.DowntimeMS, result.StopReason)
	}
	b.unchanged = u
	return nil
}

// moveRewriter moves such a program between two nodes of its own.
func moveRewriter(ctx context.Context, more []string) (*move.Result, error) {
	l, err := lab.Up(ctx, lab.Options{Dir: labDir, Shape: throttleLink})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if _, err := rewrite(ctx, l, unchangedMiB, unchangedRate, more...); err != nil {
		return nil, err
	}
	result, err := move.Do(ctx, l.Node("a"), workload.Rewriter, "b", "--compression", "none", "--max-rounds", strconv.Itoa(unchangedRounds))
	if err != nil {
		return nil, err
	}
	return result, lab.Down(ctx, labDir)
}
