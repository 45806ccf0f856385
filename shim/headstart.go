package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// kubelet gives a start two minutes, and that of the destination's last container lasts
// until the commit. So that pod is to be made when little is left to be sent, and what is
// left is predicted by what was sent so far.

const (
	// startLimit is what kubelet gives a start, unless its configuration says another
	// runtimeRequestTimeout.
	startLimit = 2 * time.Minute
	// nearlyDone is how much may be to come of the first copy of memory, and of files,
	// when the pod is to be made: no less, as pods take seconds.
	nearlyDone = startLimit / 8
	// lastRounds is what the rounds may still take when the destination has its trees.
	lastRounds = startLimit / 2
	// notFaster is how much of the time of the sync before it one must take to show that
	// further ones will not be shorter.
	notFaster = 0.75
)

// errOutrun fails a migration whose files change faster than they can be sent.
var errOutrun = errors.New("the pod's files change faster than they are sent")

// errTooLate fails a migration in mode cold whose memory cannot be at the destination in
// the time for a start.
var errTooLate = errors.New("the pod's memory takes longer than its start may")

const (
	// coldSample is how long a cold copy is looked at before it is judged by its rate.
	coldSample = 5 * time.Second
	// coldDoubt is how much of what seems to be left may be no more than seeming: memory
	// that is given up meanwhile, pages that turn out to be zero.
	coldDoubt = 0.75
)

// coldCopy is a copy of all memory while the pod is frozen and the destination's waits.
type coldCopy struct {
	placed, frozen time.Time
	// memory is what there was to be sent at the freeze, sent what has been, bytes.
	memory, sent uint64
}

// left is how long the rest takes at the rate so far; 0 if that cannot be told.
func (c coldCopy) left(now time.Time) time.Duration {
	if c.sent == 0 || c.sent >= c.memory {
		return 0
	}
	return time.Duration(float64(now.Sub(c.frozen)) * float64(c.memory-c.sent) / float64(c.sent))
}

// tooLate says why the copy cannot be done in time, nil if it may. What hangs is somebody
// else's matter.
func (c coldCopy) tooLate(now time.Time) error {
	left := c.left(now)
	if now.Sub(c.frozen) < coldSample || now.Sub(c.placed)+time.Duration(coldDoubt*float64(left)) <= startLimit {
		return nil
	}
	return fmt.Errorf("%w: %d MiB are left after %v, which takes %v more, and kubelet gives the destination's pod %v to start: "+
		"mode Live sends memory while the pod runs, a higher limit of bandwidth helps as well",
		errTooLate, (c.memory-c.sent)>>20, now.Sub(c.frozen).Round(time.Second), left.Round(time.Second), startLimit)
}

// coldCopyLocked is how far the copy is of a pod that a start waits for; false if there is
// no such copy, or it is done. mu is held.
func (s *source) coldCopyLocked(c coldCopy, now cutoverSteps) (coldCopy, bool) {
	c.placed, c.sent = s.placed, now.pages
	return c, s.cold() && !s.placed.IsZero() && now.state == shimv1.State_STATE_CUTTING_OVER
}

// goAhead sends files into the destination's spool until little of them and of memory is
// left, and says then that the pod is to be made. sync sends what has changed of files.
func (s *source) goAhead(ctx context.Context, sync func(context.Context) error) error {
	var h headStart
	for {
		begun := time.Now()
		if err := sync(ctx); err != nil {
			return err
		}
		h.synced(begun, time.Now())
		if err := s.awaitNearlyCopied(ctx); err != nil {
			return err
		}
		now := time.Now()
		switch h.decide(now) {
		case syncAgain:
			s.log.Info("files are sent once more before the destination's pod is made", "left", h.left(now), "took", h.took)
		case outrun:
			return fmt.Errorf("%w: what is left of them takes %v, and kubelet gives the destination's pod %v to start: a higher limit of bandwidth helps, or less that is written",
				errOutrun, h.left(now).Round(time.Second), startLimit)
		case placePod:
			s.place()
			return nil
		}
	}
}

// headStart is what is known of the files that go ahead of the pod.
type headStart struct {
	syncs int
	begun time.Time // of the last sync
	// took is how long that took, window the time in which what it sent had changed; 0:
	// that was everything.
	took, window time.Duration
	// before is how long the sync before took.
	before time.Duration
}

// synced takes in a sync.
func (h *headStart) synced(begun, ended time.Time) {
	if h.syncs > 0 {
		h.window = begun.Sub(h.begun)
	}
	h.before, h.took, h.begun = h.took, ended.Sub(begun), begun
	h.syncs++
}

// left is how long a sync would take now: as long as the last, if as much changes in as
// much time. After the first it may be all of it again.
func (h *headStart) left(now time.Time) time.Duration {
	if h.window <= 0 {
		return h.took
	}
	return time.Duration(float64(h.took) * float64(now.Sub(h.begun)) / float64(h.window))
}

// headStartStep is what comes next.
type headStartStep int

const (
	syncAgain headStartStep = iota
	placePod
	// outrun: there is no use in either.
	outrun
)

// decide says what to do after a sync, when little is left of memory.
func (h *headStart) decide(now time.Time) headStartStep {
	left := h.left(now)
	further := h.syncs < 3 || float64(h.took) < notFaster*float64(h.before)
	switch {
	case left < nearlyDone:
		return placePod
	case further:
		return syncAgain
	case left < lastRounds:
		return placePod
	}
	return outrun
}

// memoryNearlyCopied says whether little is left of the first copy of memory.
func memoryNearlyCopied(p *shimv1.Progress, copied bool) bool {
	if copied || p.GetRound() > 0 || len(p.GetRounds()) > 0 {
		return true
	}
	return p.GetEtaMs() > 0 && time.Duration(p.GetEtaMs())*time.Millisecond < nearlyDone
}

// awaitNearlyCopied waits until that is so.
func (s *source) awaitNearlyCopied(ctx context.Context) error {
	for {
		changed := s.changed.wait()
		s.mu.Lock()
		near := memoryNearlyCopied(s.progress, s.copied)
		s.mu.Unlock()
		if near {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// place says that the destination's pod is to be made.
func (s *source) place() {
	s.mu.Lock()
	s.placing, s.placed = true, time.Now()
	s.mu.Unlock()
	s.changed.signal()
}
