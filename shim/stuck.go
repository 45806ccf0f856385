package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/pagestream"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// A frozen pod must not stand still because something hangs: CRIU while it dumps, a
// connection that takes nothing any more, a destination that does not restore. How long
// a cutover may take depends on memory and link, so it is not its time that is bounded
// but the time in which nothing of it gets on.

const (
	// defaultStuckAfter is how long that may be if the daemon asks for nothing else, for
	// a pod without memory.
	defaultStuckAfter = 10 * time.Second
	// stuckRate is at what rate memory is gone through at the least where that is not
	// told, bytes a second: CRIU's walk through a process, the restore of shared memory.
	stuckRate = 256 << 20
	// stuckLooks is how often it is looked at whether something has got on, before
	// nothing has: time alone would count that in which the shim did not run either.
	stuckLooks = 10
)

// errStuck aborts a migration whose pod is frozen for nothing.
var errStuck = errors.New("nothing has got on while the pod was frozen")

// stuckAfter is how long nothing may get on while a pod with so much memory is frozen.
func stuckAfter(asked, memory uint64) time.Duration {
	limit := defaultStuckAfter
	if asked > 0 {
		limit = time.Duration(asked) * time.Millisecond
	}
	return limit + time.Duration(float64(memory)/stuckRate*float64(time.Second))
}

// cutoverSteps is how far a cutover is.
type cutoverSteps struct {
	state shimv1.State
	dumps int
	// witnessed is how many pages CRIU has dumped by itself.
	witnessed uint64
	// sent is what was sent of pages and files, pages what of it are pages, and waiting
	// what of it is not stored yet: bytes.
	sent, pages, waiting uint64
}

// fewWait is not waited for: frames that only keep the connection alive are stored as well.
const fewWait = 64 << 10

// gotOn says whether the cutover has got on since.
func (now cutoverSteps) gotOn(since cutoverSteps) bool {
	return now.state != since.state || now.dumps != since.dumps || now.witnessed != since.witnessed || now.sent != since.sent ||
		max(now.waiting, fewWait) < max(since.waiting, fewWait)
}

// stuckClock notices that nothing gets on.
type stuckClock struct {
	limit time.Duration
	last  cutoverSteps
	looks int
}

// pause is the time between two looks.
func (c *stuckClock) pause() time.Duration { return c.limit / stuckLooks }

// stuck is told how far the cutover is, and says whether nothing has got on for too long.
func (c *stuckClock) stuck(now cutoverSteps) bool {
	if now.gotOn(c.last) {
		c.last, c.looks = now, 0
		return false
	}
	c.looks++
	return c.looks >= stuckLooks
}

// startClock thaws the pod when nothing gets on any more.
func (s *source) startClock() {
	resident, anonymous := s.resident()
	clock := &stuckClock{limit: stuckAfter(s.request.GetPolicy().GetStuckAfterMs(), resident)}
	cold := coldCopy{frozen: time.Now(), memory: anonymous}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.thaw = time.AfterFunc(clock.pause(), func() { s.look(clock, cold) })
}

// look breaks the migration off if its cutover is stuck, or will not be done in time, or
// looks again later.
func (s *source) look(clock *stuckClock, cold coldCopy) {
	s.mu.Lock()
	if s.state != shimv1.State_STATE_CUTTING_OVER && s.state != shimv1.State_STATE_CUT_OVER {
		s.mu.Unlock()
		return
	}
	now := s.stepsLocked()
	var why error
	if clock.stuck(now) {
		why = fmt.Errorf("%w for %v: %s", errStuck, clock.limit.Round(time.Millisecond), s.stuckAt(clock.last))
	} else if cold, is := s.coldCopyLocked(cold, now); is {
		why = cold.tooLate(time.Now())
	}
	if why == nil {
		s.thaw.Reset(clock.pause())
	}
	s.mu.Unlock()
	if why != nil {
		s.end(shimv1.State_STATE_ABORTED, why)
	}
}

// stepsLocked is how far the cutover is; mu is held.
func (s *source) stepsLocked() cutoverSteps {
	stats := s.link.session.Stats()
	pages := (stats.Pages + stats.ZeroPages) * pagestream.PageSize
	return cutoverSteps{
		state: s.state, dumps: s.dumped, witnessed: s.witnessed(),
		sent: pages + stats.BlobBytes, pages: pages,
		waiting: stats.WireBytes - min(stats.WireBytes, stats.Acked),
	}
}

// stuckAt says what is being waited for.
func (s *source) stuckAt(at cutoverSteps) string {
	switch {
	case at.state == shimv1.State_STATE_CUT_OVER:
		return "everything is at the destination, which has not restored the pod, or the decision does not come"
	case at.dumps < len(s.containers):
		return fmt.Sprintf("CRIU has dumped %d of %d containers", at.dumps, len(s.containers))
	}
	return "CRIU is done, what the pod has written last does not get to the destination"
}

// resident is the memory of the pod's processes, and what of it is no file's and not
// shared, bytes (proc(5), /proc/PID/statm); pages that they share count for each of them.
func (s *source) resident() (all, anonymous uint64) {
	for _, c := range s.containers {
		pids, err := c.freezer.processes()
		if err != nil {
			continue // the freeze will tell
		}
		for _, pid := range pids {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)) // it may have ended
			var size, resident, shared uint64
			if n, _ := fmt.Sscan(string(b), &size, &resident, &shared); n == 3 {
				all += resident * pagestream.PageSize
				anonymous += (resident - min(resident, shared)) * pagestream.PageSize
			}
		}
	}
	return all, anonymous
}

// breakOffStanding returns a context that ends when a process has stood still under a
// tracer for the limit while nothing got on: a pre-dump of CRIU's that hangs. forget gives
// the watching up and returns when it has ended.
func breakOffStanding(ctx context.Context, pid int, limit time.Duration, gotOn func() uint64) (watched context.Context, forget func()) {
	watched, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		clock := &stuckClock{limit: limit}
		looks := time.NewTicker(clock.pause())
		defer looks.Stop()
		for {
			select {
			case <-watched.Done():
				return
			case <-looks.C:
			}
			if !traced(pid) {
				clock.looks = 0
				continue
			}
			if clock.stuck(cutoverSteps{sent: gotOn()}) {
				cancel(fmt.Errorf("%w for %v: CRIU holds process %d", errStuck, limit, pid))
				return
			}
		}
	}()
	return watched, func() {
		cancel(nil)
		<-ended
	}
}

// traced says whether a process stands still under a tracer (proc(5), /proc/PID/stat).
func traced(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && strings.HasPrefix(string(b[strings.LastIndexByte(string(b), ')')+1:]), " t")
}
