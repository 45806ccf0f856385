package precopy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"godwit.dev/godwit/pagestream/track"
)

// Result is how the rounds ended.
type Result struct {
	Rounds   []RoundStat // in order, round 0 first
	Decision Decision    // the last one, with the reason
	Elapsed  time.Duration
}

// FinalStat is the last copy, of frozen memory.
type FinalStat struct {
	Scan   time.Duration // the collection
	Copy   time.Duration // reading and handing over
	Flush  time.Duration // until all was stored
	Pages  uint64        // found
	Copied CopyStats
	// WireBytes is as in RoundStat.
	WireBytes uint64
}

// Total is how long the last copy took.
func (s FinalStat) Total() time.Duration { return s.Scan + s.Copy + s.Flush }

// ErrUnreadable is wrapped by the error of a last copy that could not read a
// page of a frozen process.
var ErrUnreadable = errors.New("page of a frozen process cannot be read")

// Run copies everything, then round after round, until the policy says stop.
// The processes run all the while. An error, ctx ending among them, leaves the
// rounds Broken: what was collected is not marked dirty any more, and was
// perhaps not sent.
func (r *Rounds) Run(ctx context.Context) (Result, error) {
	if err := r.enter(Running); err != nil {
		return Result{}, err
	}
	var res Result
	vain, err := r.ahead(ctx)
	switch {
	case err != nil:
		return res, r.fail(fmt.Errorf("copy ahead: %w", err))
	case vain:
		res.Decision = Decision{Stop: true, Reason: InVain}
		return res, r.enter(Converged)
	}
	for {
		stat, err := r.round(ctx, len(res.Rounds))
		if err != nil {
			return res, r.fail(fmt.Errorf("round %d: %w", len(res.Rounds), err))
		}
		res.Rounds = append(res.Rounds, stat)
		r.recent = lately(res.Rounds)
		if stat.Number == 1 {
			r.dirty = forecast(r.recent, r.config.Policy).tracked()
		}
		res.Elapsed = time.Since(r.begun)
		policy := r.policy()
		res.Decision = r.decide(res.Rounds, policy)
		r.last, r.limit, r.looks = stat, res.Decision.Limit, res.Decision.Wait > 0
		r.report(res, policy)
		if res.Decision.Stop {
			r.promised, r.looks = res.Decision.Forecast.Downtime, r.hopeless(res.Decision.Forecast)
			if err := res.Decision.stalled(policy); err != nil {
				return res, r.fail(err)
			}
			return res, r.enter(Converged)
		}
		if err := pause(ctx, res.Decision.Wait); err != nil {
			return res, r.fail(err)
		}
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// EndBy has Run end, as if the policy's time were spent, before a round that would
// not fit in before t. A round that is under way is never cut short.
func (r *Rounds) EndBy(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endBy = t
}

// policy is that of the configuration, with what EndBy makes of its time.
func (r *Rounds) policy() Policy {
	p := r.config.Policy
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.endBy.IsZero() {
		p.MaxTime = max(time.Nanosecond, min(p.maxTime(), r.endBy.Sub(r.begun)))
	}
	return p
}

func (r *Rounds) report(res Result, policy Policy) {
	last, d := res.Rounds[len(res.Rounds)-1], res.Decision
	r.reporter.roundEnds(last, d, remaining(res.Rounds, policy, d.Forecast))
	level := slog.LevelDebug
	if d.Stop {
		level = slog.LevelInfo
	}
	r.config.Log.Log(context.Background(), level, "round ended", append([]any{"round", last.Number, "pages", last.Pages,
		"sent", last.Copied.Sent, "unchanged", last.Copied.Unchanged, "deltas", last.Copied.Deltas, "hot", last.Hot, "saved_bytes", last.Saved, "behind", last.Behind, "scan", last.Scan, "copy", last.Copy, "window", last.Window,
		"compression", compresses(r.config.Session)}, d.inputs()...)...)
}

// round collects what is dirty, copies it and waits until it is stored, so
// that a page of a later round always lands after the same page of this one.
func (r *Rounds) round(ctx context.Context, number int) (RoundStat, error) {
	began, wireBefore := time.Now(), wireBytes(r.config.Session)
	if number == 0 {
		r.begun = began
	}
	stat := RoundStat{Number: number}
	if number > 0 {
		stat.Window = began.Sub(r.lastScan)
	}
	r.lastScan = began
	if r.config.Carrier != nil {
		stat, err := r.carry(ctx, stat, began)
		stat.WireBytes = wireBytes(r.config.Session) - wireBefore
		return stat, err
	}
	found, err := r.config.Tracker.Collect(ctx)
	if err != nil {
		return RoundStat{}, fmt.Errorf("collect dirty pages: %w", err)
	}
	if r.resent != nil {
		r.resent.begin(found)
	}
	r.sort(&found, &stat)
	memories := memoriesOf(found)
	stat.Scan, stat.Untracked, stat.Refused = time.Since(began), found.Untracked, refused(found)
	for _, stop := range found.Stops {
		stat.Stood += stop
	}
	areas := processAreas(memories)
	if number > 0 {
		r.resent.sift(areas, found)
	}
	sending := pagesOfAreas(areas)
	if stat.Pages == 0 {
		stat.Pages = sending
	}
	var shared []*area
	if r.config.Shared != nil && number <= sharedRounds {
		shared = r.config.Shared.areas(memories)
		r.resent.again(shared)
	}
	r.reporter.roundBegins(number, sending+pagesOfAreas(shared))
	held := heldBack(r.config.Session)
	stat.Copied, stat.Copy, err = r.store(ctx, areas)
	stat.Held = min(stat.Copy, heldBack(r.config.Session)-held)
	if err == nil && len(shared) > 0 {
		// After the processes' pages and timed apart, as it goes at another
		// rate and nothing of it comes again in the next round.
		stat.SharedCopied, stat.SharedCopy, err = r.store(ctx, shared)
	}
	if err == nil && number <= sharedRounds {
		_, err = r.CopyContents(ctx, memories)
	}
	stat.WireBytes = wireBytes(r.config.Session) - wireBefore
	return stat, err
}

// store copies areas and waits until they are stored.
func (r *Rounds) store(ctx context.Context, areas []*area) (CopyStats, time.Duration, error) {
	began := time.Now()
	stats, err := r.copier.copy(ctx, areas, *r.config.Pace)
	r.reporter.copyEnded(stats)
	if err != nil {
		return stats, time.Since(began), err
	}
	if err := r.config.Session.Flush(ctx); err != nil {
		return stats, time.Since(began), fmt.Errorf("flush: %w", err)
	}
	return stats, time.Since(began), nil
}

// refused is how many pages a round found of processes that could not be tracked.
func refused(found track.Round) (pages uint64) {
	for _, p := range found.Processes {
		if p.Err != nil {
			pages += p.Untracked
		}
	}
	return pages
}

func pagesOfAreas(areas []*area) uint64 {
	var n uint64
	for _, a := range areas {
		n += pagesOf(a.ranges)
	}
	return n
}

// The pace of Keep: often enough that about half of the dirty limit gathers
// between two rounds, within bounds, and never so often that rounds take more
// than a quarter of the time.
const (
	minKeepPause = 100 * time.Millisecond
	maxKeepPause = 500 * time.Millisecond
	keepShare    = 4
)

// Keep goes on with rounds after Run, so that little is dirty when the freeze
// comes, until that is asked for. It then finishes the round under way, as half a round
// must not be lost, goes on until a good moment has come, see settled, and returns nil.
// When ctx ends it returns nil after the round under way. Close the session to cut it
// off for good. Shared memory is looked at again only by FinishShared.
func (r *Rounds) Keep(ctx context.Context, freeze <-chan struct{}) error {
	if err := r.enter(Keeping); err != nil {
		return err
	}
	pause := time.NewTimer(r.keepPause(r.last))
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return r.enter(Converged)
		case <-freeze:
			if err := r.settle(ctx); err != nil {
				return err
			}
			return r.enter(Converged)
		case <-pause.C:
		}
		if err := r.keepUp(ctx); err != nil {
			return err
		}
		pause.Reset(r.keepPause(r.last))
	}
}

// keepUp does one round of Keep.
func (r *Rounds) keepUp(ctx context.Context) error {
	stat, err := r.round(context.WithoutCancel(ctx), r.last.Number+1)
	if err != nil {
		return r.fail(fmt.Errorf("round %d: %w", r.last.Number+1, err))
	}
	r.last, r.recent = stat, lately(append(r.recent, stat))
	f := forecast(r.recent, r.config.Policy)
	r.looks = r.hopeless(f)
	r.reporter.keptUp(stat, f)
	return nil
}

// hopeless tells whether there is nothing to keep: a round of Keep would be in vain.
func (r *Rounds) hopeless(f Forecast) bool {
	return inVain(r.recent, f) && f.tracked() >= allShare*r.dirty
}

// settle does the last rounds before the freeze, one right after the other: at least
// one, as much may have gathered in the pause. A Carrier's rounds stop the pod, so they
// are not for that, and S0 knows no such rounds.
func (r *Rounds) settle(ctx context.Context) error {
	if r.config.Carrier != nil || r.config.Policy.Rule == S0 {
		return nil
	}
	for begun := time.Now(); ctx.Err() == nil; {
		if err := r.keepUp(ctx); err != nil {
			return err
		}
		if settled(r.recent, r.config.Policy, r.promised, time.Since(begun)) {
			return nil
		}
	}
	return nil
}

func (r *Rounds) keepPause(last RoundStat) time.Duration {
	if r.config.Carrier != nil {
		return max(minCarriedPause, keepPause(last, r.limit))
	}
	return keepPause(last, r.limit)
}

// keepPause is how long to wait after a round of Keep.
func keepPause(last RoundStat, limit uint64) time.Duration {
	pause := maxKeepPause
	if rate := last.DirtyRate(); rate > 0 {
		pause = min(pause, time.Duration(float64(limit)/2/rate*float64(time.Second)))
	}
	return min(max(pause, minKeepPause, (keepShare-1)*last.Duration()), 20*maxKeepPause)
}

// Final copies what is dirty while the processes are frozen, as fast as it
// can, and returns when all of it is stored. Without a Run before it, that is
// everything: stop-and-copy. A page that cannot be read is an error, as its
// content would be lost; the caller lets the processes run on.
func (r *Rounds) Final(ctx context.Context) (FinalStat, error) {
	if err := r.enter(Final); err != nil {
		return FinalStat{}, err
	}
	stat, err := r.final(ctx)
	if err != nil {
		return stat, r.fail(fmt.Errorf("last copy: %w", err))
	}
	return stat, r.enter(Done)
}

func (r *Rounds) final(ctx context.Context) (FinalStat, error) {
	var stat FinalStat
	began, wireBefore := time.Now(), wireBytes(r.config.Session)
	found, err := r.config.Tracker.CollectFrozen(ctx)
	if err != nil {
		return stat, fmt.Errorf("collect dirty pages: %w", err)
	}
	stat.Scan = time.Since(began)
	areas := processAreas(memoriesOf(found))
	if r.resent != nil && !r.begun.IsZero() {
		r.resent.sift(areas, found)
		r.resent.copies.Last()
	}
	stat.Pages = pagesOfAreas(areas)
	r.reporter.roundBegins(r.last.Number+1, stat.Pages)

	began = time.Now()
	stat.Copied, err = r.copier.copy(ctx, areas, Urgent)
	stat.Copy = time.Since(began)
	r.reporter.copyEnded(stat.Copied)
	if err != nil {
		return stat, err
	}
	if n := stat.Copied.Skipped; n > 0 {
		return stat, fmt.Errorf("%w: %s and %d more; is it of a device, or is process memory closed to root (proc_mem.force_override)?",
			ErrUnreadable, stat.Copied.FirstSkipped, n-1)
	}
	began = time.Now()
	if err := r.config.Session.Flush(ctx); err != nil {
		return stat, fmt.Errorf("flush: %w", err)
	}
	stat.Flush = time.Since(began)
	stat.WireBytes = wireBytes(r.config.Session) - wireBefore
	return stat, nil
}
