package precopy

import (
	"context"
	"fmt"
	"time"

	"godwit.dev/godwit/pagestream/track"
)

// Carrier does whole rounds of processes while they run: it finds what is to be
// copied and hands it to the session, as CRIU's pre-dumps do. With one, the
// Tracker is asked for the last round alone. Shared memory, which no pre-dump of
// CRIU 4.2 carries (criu/shmem.c, cr_dump_shmem, has found none by then), is the
// rounds' own to copy all the same.
type Carrier interface {
	// Processes are those whose shared memory is to be copied ahead.
	Processes() ([]track.Process, error)
	// Expect is how many pages the first round is about to carry, roughly.
	Expect() uint64
	// Carry hands over the pages of processes that were written since the
	// round before, all of them in round 0. done is told how many pages it has dealt with so far. It
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
	// SharedCopied is the outcome for shared memory, if it carried any.
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
	return r.carryShared(ctx, stat)
}

// carryShared copies shared memory, and what else CRIU dumps itself, ahead in a carrier's first rounds.
func (r *Rounds) carryShared(ctx context.Context, stat RoundStat) (RoundStat, error) {
	if r.config.Shared == nil && r.config.Contents == nil || stat.Number > sharedRounds {
		return stat, nil
	}
	processes, err := r.config.Carrier.Processes()
	if err != nil {
		return stat, fmt.Errorf("list processes with shared memory: %w", err)
	}
	memories := make([]Memory, len(processes))
	for i, p := range processes {
		memories[i] = Memory{PID: p.PID, Space: p.Space}
	}
	if _, err := r.CopyContents(ctx, memories); err != nil || r.config.Shared == nil {
		return stat, err
	}
	areas := r.config.Shared.areas(memories)
	if len(areas) == 0 {
		return stat, nil
	}
	copied, took, err := r.store(ctx, areas)
	stat.SharedCopied.add(copied)
	stat.SharedCopy = took
	return stat, err
}

// handled is how many pages were dealt with so far, by whomever.
func (r *Rounds) handled() uint64 { return r.copier.Copied() + r.carried.Load() }
