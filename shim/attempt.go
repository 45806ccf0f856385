package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"godwit.dev/godwit/shim/criu"
)

// Until the commit a restore that fails or hangs is a vote against the move. After it
// the pod has no other place to run: images and store are complete here, and nothing
// of a container has run before CRIU asks, last of all, whether to let it go
// (criu.PreResume). So a restore that fails or hangs before that is done again, as often
// as it takes; one that fails after it is not, as the pod would live through the same
// moments twice.
//
// CRIU 4.2.1 can hang: it says that the next stage has begun before
// it has set how many threads have yet to end it (criu/cr-restore.c, __restore_switch_stage:
// two plain stores, which Debian's compiler has swapped). If CRIU is preempted between
// them, the thread that it has just continued ends the stage first, its decrement is
// overwritten, and CRIU and all threads wait for one more for ever. Stopped there with
// a breakpoint, which was tried once, it hung like that.

// attempt is one run of `runc restore`.
type attempt struct {
	number  int // from 1
	restore *criu.Restore
	fill    *fill
	// again: it was made after the commit, so that nobody else holds it.
	again bool
	// early is what one that was started before its images waits for; nil for others.
	early *earlyImages
	// over is done, with the reason, when it has come to nothing, or its runc has ended.
	over context.Context
	end  context.CancelCauseFunc
	// seen is done when nobody sees it through any more.
	seen sync.WaitGroup
	// tmpfs are the container's own mounts, until releasing is done.
	tmpfs     []arrivingTmpfs
	releasing sync.Once
	// old is what was made for CRIU in the container's root file system, nil if nothing was; who sees the attempt through has it, and who releases it.
	old *oldRoot
}

func newAttempt(number int, fill *fill) *attempt {
	t := &attempt{number: number, fill: fill}
	t.over, t.end = context.WithCancelCause(context.Background())
	return t
}

var (
	// errHung: CRIU has not come to where the container would run.
	errHung = errors.New("CRIU hangs")
	// errHasRun: what a container did cannot be undone by restoring it again.
	errHasRun = errors.New("the restore failed when the container had been let go")
)

// attemptEnd is what becomes of a container whose `runc restore` has ended.
type attemptEnd int

const (
	// attemptRuns: the container runs.
	attemptRuns attemptEnd = iota
	// attemptLost: there will be no container.
	attemptLost
	// attemptAgain: it is restored again.
	attemptAgain
	// attemptParked: it is restored when that is ordered, as if nothing had been tried.
	attemptParked
)

// decideAttempt says what becomes of a container that stood at a state when its runc,
// which was started before the images were there or not, ended, well or not.
func decideAttempt(s arrivalState, early, well bool) attemptEnd {
	switch {
	case well:
		return attemptRuns
	case s == arrivalCommitted:
		return attemptAgain
	case early && (s == arrivalReady || s == arrivalRestoring):
		return attemptParked
	}
	return attemptLost
}

const (
	// firstLimit is what a held restore may take from the commit to its last step. It
	// takes milliseconds on an idle machine, the pod stands still meanwhile, and one that
	// was only slow is done again without harm.
	firstLimit = 4 * time.Second
	// maxLimit is the same for the last of many attempts.
	maxLimit = 2 * time.Minute
	// firstDelay is the pause before the third attempt, the second comes at once;
	// maxDelay before the last of many.
	firstDelay = time.Second
	maxDelay   = 30 * time.Second
)

// attemptLimit is how long an attempt may take until the container is let go: the more
// the more have come to nothing, as the machine may be that slow.
func attemptLimit(number int) time.Duration {
	return doubled(firstLimit, number-1, maxLimit)
}

// attemptDelay is the pause before an attempt.
func attemptDelay(number int) time.Duration {
	if number <= 2 {
		return 0
	}
	return doubled(firstDelay, number-3, maxDelay)
}

// doubled is d doubled so many times, limit at most.
func doubled(d time.Duration, times int, limit time.Duration) time.Duration {
	for ; times > 0 && d < limit; times-- {
		d *= 2
	}
	return min(d, limit)
}

// letGo sees an attempt of a committed container to the moment in which its processes
// run, and kills it if it does not get there in time. Between CRIU's question whether
// to let them go and the answer the container becomes a running one, which is never
// restored again. Containers that are committed together pass a gate right before.
func (d *destination) letGo(a *arrival, t *attempt, g *gate) {
	defer t.seen.Done()
	ctx, cancel := context.WithTimeoutCause(t.over, attemptLimit(t.number), errHung)
	defer cancel()
	if err := t.old.remove(); err != nil {
		d.log.Warn("a restored container has a directory more than it had", "container", a.container.id, "error", err)
	}
	err := t.reachEnd(ctx)
	if err == nil {
		if err := d.restoreOversleep(a); err != nil {
			d.log.Warn("timers of a restored container may be later, or sooner, than before", "container", a.container.id, "error", err)
		}
	}
	g.arrive()
	if err == nil {
		err = g.pass(t.over)
	}
	if err == nil {
		err = d.noteRunning(a, t)
	}
	if err == nil {
		// What it is restored from is needed no more, and can wait.
		defer t.fill.release()
		err = t.restore.Answer(criu.Go)
	}
	if err == nil || t.ended() {
		return // who waits for runc knows how it ended
	}
	d.log.Error("a restore does not come to its end, it is killed", "container", a.container.id, "attempt", t.number, "error", err)
	t.end(err)
	d.killAttempt(a)
}

// reachEnd has CRIU go on to its last step.
func (t *attempt) reachEnd(ctx context.Context) error {
	if t.again { // another was held, and let go on by the commit
		if _, err := t.restore.Held(ctx); err != nil {
			return err
		}
		if err := t.restore.Answer(criu.Go); err != nil {
			return err
		}
	}
	return t.restore.Resuming(ctx)
}

// errRuncEnded is why an attempt is over whose runc has ended.
var errRuncEnded = errors.New("runc has ended")

// ended says whether the attempt's runc has ended.
func (t *attempt) ended() bool { return errors.Is(context.Cause(t.over), errRuncEnded) }

// noteRunning makes a committed container a running one, unless the attempt has come to nothing
// just now.
func (d *destination) noteRunning(a *arrival, t *attempt) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t.over.Err() != nil {
		return context.Cause(t.over)
	}
	if err := d.moveLocked(a, arrivalRunning); err != nil {
		return err
	}
	a.ran = time.Now()
	return nil
}

// restoreEnded is told that a container's `runc restore` has ended, with an error if it
// failed, and says whether it is to be run again. When it returns true everything is
// ready for that.
func (d *destination) restoreEnded(a *arrival, failure error) bool {
	t, end := d.takeEnd(a, failure)
	switch end {
	case attemptParked:
		return d.parkAgain(a, t, failure)
	case attemptRuns:
		t.release()
		if d.running(a) { // also if CRIU asked nobody
			t.fill.release()
		}
		return false
	case attemptLost:
		t.release()
		return false
	}
	t.release()
	why := context.Cause(t.over)
	if t.ended() {
		why = failure
	}
	return d.repeat(a, t, t.restore.WithLog(why))
}

func (d *destination) running(a *arrival) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return a.state == arrivalRunning
}

// takeEnd decides what becomes of a container, and moves it there, in one step.
func (d *destination) takeEnd(a *arrival, failure error) (*attempt, attemptEnd) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := a.attempt
	t.end(errRuncEnded)
	end := decideAttempt(a.state, t.early != nil, failure == nil)
	switch {
	case end == attemptParked:
		_ = d.moveLocked(a, arrivalParked)
	case end == attemptAgain:
		_ = d.moveLocked(a, arrivalRepeating)
	case end == attemptLost && a.state == arrivalRunning:
		d.endLocked(a, fmt.Errorf("%w: %w", errHasRun, failure))
	case end == attemptLost: // no commit from here on; the stock service knows more of the reason
		_ = d.moveLocked(a, arrivalEnded)
	case a.state == arrivalCommitted: // CRIU asked nobody
		_ = d.moveLocked(a, arrivalRunning)
		a.ran = time.Now()
	}
	return t, end
}

// repeat makes everything ready for another attempt at a committed container; false if
// the container was ended meanwhile.
func (d *destination) repeat(a *arrival, t *attempt, why error) bool {
	for number := t.number + 1; ; number++ {
		delay := attemptDelay(number)
		d.log.Error("the restore of a committed container came to nothing, it is restored again from the store",
			"container", a.container.id, "attempt", number, "after", delay, "error", why)
		d.note(a, fmt.Errorf("container %s is restored again from the store: attempt %d: %w", a.container.id, number-1, why))
		if why = d.tryAgain(a, t, number, delay); why == nil {
			return true
		}
		if a.ended.Err() != nil {
			return false
		}
	}
}

// note keeps why a container is restored again.
func (d *destination) note(a *arrival, trouble error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a.trouble = trouble
	d.changed.signal()
}

// tryAgain removes what the last attempt left and prepares the next.
func (d *destination) tryAgain(a *arrival, last *attempt, number int, delay time.Duration) error {
	if err := d.clean(a, last); err != nil {
		return fmt.Errorf("remove what a restore left: %w", err)
	}
	select {
	case <-time.After(delay):
	case <-a.ended.Done():
		return context.Cause(a.ended)
	}
	fill, err := d.newFill(a.ended, a)
	if err != nil {
		return err
	}
	t, err := d.equip(a.ended, a, number, fill)
	if err != nil {
		fill.stop()
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.moveLocked(a, arrivalCommitted); err != nil {
		t.release()
		return err
	}
	t.again = true
	t.seen.Add(1)
	go d.letGo(a, t, nil)
	return nil
}
