package precopy

import (
	"context"
	"fmt"
	"time"
)

// Carrier does whole rounds while the processes run: it finds what is to be
// copied and hands it to the session, as CRIU's pre-dumps do. With one, the
// Tracker is asked for the last round alone.
type Carrier interface {
	// Expect is how many pages the first round is about to carry, roughly.
	Expect() uint64
	// Carry hands over the pages of processes that were written since the
	// round before, all of them in round 0, and all of the shared memory that
	// changed. done is told how many pages it has dealt with so far. It
	// returns when everything is handed to the session's streams; that it is
	// stored is for a flush to say.
	Carry(ctx context.Context, number int, done func(pages uint64)) (Carried, error)
}

// Carried says what a Carrier's round did.
type Carried struct {
	// Pages is how many pages of processes were to be copied.
	Pages uint64
	// Scan is how long finding them took.
	Scan time.Duration
	// Stood is how long the processes stood still for it.
	Stood  time.Duration
	Copied CopyStats
	// SharedCopied is the outcome for shared memory, copied meanwhile.
	SharedCopied CopyStats
}

// minCarriedPause is the least pause between two of a Carrier's rounds after the
// rounds have ended: each of them stops the processes for a moment.
const minCarriedPause = 2 * time.Second

// carry does one round by the carrier.
func (r *Rounds) carry(ctx context.Context, stat RoundStat, began time.Time) (RoundStat, error) {
	expected := r.last.Pages
	if stat.Number == 0 {
		expected = r.config.Carrier.Expect()
	}
	r.reporter.roundBegins(stat.Number, expected)
	before := r.carried.Load()
	got, err := r.config.Carrier.Carry(ctx, stat.Number, func(pages uint64) { r.carried.Store(before + pages) })
	if err != nil {
		return stat, err
	}
	if err := r.config.Session.Flush(ctx); err != nil {
		return stat, fmt.Errorf("flush: %w", err)
	}
	stat.Pages, stat.Scan, stat.Stood = got.Pages, got.Scan, got.Stood
	stat.Copied, stat.SharedCopied = got.Copied, got.SharedCopied
	stat.Copy = time.Since(began) - got.Scan
	r.reporter.roundFound(stat)
	return stat, nil
}

// handled is how many pages were dealt with so far, by whomever.
func (r *Rounds) handled() uint64 { return r.copier.Copied() + r.carried.Load() }
