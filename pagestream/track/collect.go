package track

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// injectPatience is how long a round waits for a process that cannot be stopped, if Options do not say.
const injectPatience = 250 * time.Millisecond

// retryUnreachable is after what time such a process is tried again, so that it
// does not hold up every round.
const retryUnreachable = 2 * time.Second

// errOtherMemory says that what was opened, a userfaultfd or a pagemap, belongs
// to memory that the process has not any more.
var errOtherMemory = errors.New("memory of the process was replaced: it called exec, or ends")

// collect does the running round of one process.
func (t *Tracker) collect(ctx context.Context, p *process, s *scratch, r *Round) ProcessRound {
	pr := ProcessRound{Process: p.Process}
	err := t.collectArmed(ctx, p, s, r, &pr)
	if errors.Is(err, errOtherMemory) {
		// Closed here and not in the background: as long as the old one is
		// there, somebody who still has that memory cannot be armed.
		p.disarm()
		err = t.collectArmed(ctx, p, s, r, &pr)
	}
	if err == nil {
		return pr
	}
	// Whatever was armed before the error was not reported.
	p.void = p.uffd != closedDescriptor
	pr.Dirty, pr.Written, pr.Pages, pr.New = nil, nil, 0, false
	if ended(p.pidfd) {
		err = fmt.Errorf("%w (%w)", ErrGone, err)
	}
	pr.Err = fmt.Errorf("track process %d: %w", p.PID, err)
	return pr
}

func (p *process) disarm() {
	if p.uffd != closedDescriptor {
		unix.Close(p.uffd)
	}
	p.uffd, p.registered, p.void = closedDescriptor, false, false
	p.suspects, p.deferred, p.inFlight = nil, nil, inFlight{}
}

// collectArmed arms the process if it is not, and scans it. The areas are read
// first and once: what appears after that is found by the next round.
func (t *Tracker) collectArmed(ctx context.Context, p *process, s *scratch, r *Round, pr *ProcessRound) error {
	pm, err := s.open(p.PID)
	if err != nil {
		return err
	}
	defer pm.Close()
	if p.uffd == closedDescriptor {
		if t.findSharer(p) {
			pr.Shares = p.shares.Space
			return nil
		}
		if err := t.arm(ctx, p, pm, s, r); err != nil {
			pr.Untracked = s.count(pm, presentQuery())
			return err
		}
		pr.New = true
	}
	untrackable, err := p.registerNew(pm, s)
	if err != nil {
		return err
	}
	if p.void {
		for _, a := range s.areas.lazy {
			if err := p.lift(a); err != nil {
				return err
			}
		}
		p.void = false
	}
	written, err := scan(pm, s.areas.bounds(), writtenQuery(), s.regions)
	if err != nil {
		return err
	}
	pr.Written = written
	pr.Dirty = pagestream.Union(pagestream.Union(written, p.suspects), s.areas.clip(p.deferred))
	p.deferred = nil
	pr.Pages = pagesOf(pr.Dirty)
	p.suspects = s.areas.clip(p.inFlight.update(p.PID, s.vmas, written))
	if untrackable {
		pr.Untracked = s.count(pm, untrackedQuery())
	}
	return nil
}

// open opens the pagemap of a process and reads its areas.
func (s *scratch) open(pid int) (*pagemap.File, error) {
	pm, err := pagemap.Open(pid)
	if err != nil {
		return nil, gone(err)
	}
	s.vmas, s.text, err = pagemap.ReadMaps(pid, s.vmas[:0], s.text)
	if err != nil {
		pm.Close()
		return nil, gone(err)
	}
	s.areas.set(s.vmas)
	return pm, nil
}

// findSharer says whether an armed process has the same memory, and notes which.
func (t *Tracker) findSharer(p *process) bool {
	if p.shares != nil && p.shares.uffd != closedDescriptor && sameMemory(p.PID, p.shares.PID) {
		return true
	}
	p.shares = nil
	for _, q := range t.procs {
		if q != p && q.uffd != closedDescriptor && sameMemory(p.PID, q.PID) {
			p.shares = q
			return true
		}
	}
	return false
}

// arm gives the process a userfaultfd.
func (t *Tracker) arm(ctx context.Context, p *process, pm *pagemap.File, s *scratch, r *Round) error {
	if s.count(pm, registeredQuery()) > 0 {
		return ErrOtherTracker
	}
	if time.Now().Before(p.notBefore) {
		return p.refused
	}
	ctx, cancel := context.WithTimeout(ctx, t.opts.Patience)
	defer cancel()
	begin := time.Now()
	in, err := t.opts.Inject(ctx, p.PID)
	if err != nil && time.Since(begin) >= t.opts.Patience/2 {
		p.notBefore, p.refused = time.Now().Add(retryUnreachable), err
	}
	if err != nil {
		return err
	}
	r.Stops = append(r.Stops, in.Stopped)
	if err := handshake(in.FD); err != nil {
		unix.Close(in.FD)
		return fmt.Errorf("%w (UFFDIO_API: %w)", pagemap.ErrNoWPAsync, err)
	}
	p.uffd = in.FD
	return nil
}

// registerNew registers the lazy areas that are not registered. untrackable says
// that some cannot be. Which are registered is asked of the kernel: an area may
// have been unmapped and mapped again at the same place.
func (p *process) registerNew(pm *pagemap.File, s *scratch) (untrackable bool, err error) {
	fresh := s.areas.lazy
	if p.registered {
		if fresh, err = s.unregistered(pm); err != nil {
			return false, err
		}
	}
	// After an exec nothing is registered any more.
	suspect := p.registered && len(fresh) == len(s.areas.lazy) && len(fresh) > 0
	for _, group := range adjacent(fresh) {
		failed, err := p.register(pm, group)
		if err != nil {
			return false, err
		}
		untrackable = untrackable || failed
	}
	if suspect && !untrackable {
		// The memory of the userfaultfd may live on in another process, which
		// was forked by vfork: then registering works, but elsewhere.
		if fresh, err = s.unregistered(pm); err != nil {
			return false, err
		}
		if len(fresh) == len(s.areas.lazy) {
			return false, errOtherMemory
		}
	}
	return untrackable, nil
}

// register registers areas that touch each other, in one call if possible.
func (p *process) register(pm *pagemap.File, group []span) (untrackable bool, err error) {
	whole := span{group[0].start, group[len(group)-1].end}
	err = register(p.uffd, whole)
	switch {
	case err == nil:
		p.registered = true
		return false, p.liftStale(pm, whole)
	case errors.Is(err, unix.ENOMEM) && errors.Is(unprotect(p.uffd, whole), unix.ESRCH):
		return false, errOtherMemory
	case len(group) == 1:
		return true, nil
	}
	for i := range group {
		failed, err := p.register(pm, group[i:i+1])
		if err != nil {
			return false, err
		}
		untrackable = untrackable || failed
	}
	return untrackable, nil
}

// liftStale takes the protection off pages that have one although their area was
// not registered. Kernels before 6.13 let pages keep it that mremap moves out of
// a registered area, those before 6.9 also when a userfaultfd is closed: the
// pages would count as not written, and writing would not change that. To look
// is cheap, to lift is not.
func (p *process) liftStale(pm *pagemap.File, s span) error {
	q := staleQuery()
	q.Start, q.End = s.start, s.end
	var found [1]pagemap.Region
	n, _, err := pm.Scan(q, found[:])
	if errors.Is(err, unix.ESRCH) {
		return errOtherMemory
	}
	if err != nil || n == 0 {
		return err
	}
	return p.lift(s)
}

// lift takes the write-protection off a span; what is not registered there has
// none.
func (p *process) lift(s span) error {
	switch err := unprotect(p.uffd, s); {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ESRCH):
		return errOtherMemory
	default:
		return fmt.Errorf("lift the write-protection of %#x-%#x: %w", s.start, s.end, err)
	}
}

// adjacent groups areas that touch each other.
func adjacent(areas []span) [][]span {
	var groups [][]span
	for i, a := range areas {
		if n := len(groups); i > 0 && areas[i-1].end == a.start {
			groups[n-1] = areas[i-len(groups[n-1]) : i+1]
			continue
		}
		groups = append(groups, areas[i:i+1])
	}
	return groups
}

// unregistered returns the lazy areas that are not registered, whole.
func (s *scratch) unregistered(pm *pagemap.File) ([]span, error) {
	var fresh []span
	last := -1
	query := pagemap.Query{Inverted: pagemap.WPAllowed, Mask: pagemap.WPAllowed, Return: pagemap.WPAllowed}
	for _, sp := range s.areas.spans {
		query.Start, query.End = sp.start, sp.end
		err := pm.Walk(query, s.regions, func(found []pagemap.Region) {
			s.areas.within(found, func(area int, _ pagemap.Region) {
				if area != last {
					last = area
					fresh = append(fresh, s.areas.lazy[area])
				}
			})
		})
		if errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("%w (%w)", errOtherMemory, err)
		}
		if err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// writtenQuery finds the written pages of registered areas, and protects them
// again. The page categories are those that CRIU dumps (pmc_fill in
// criu/pagemap-cache.c). Areas that are not registered are passed over without a
// look at their pages, so one walk can go over everything.
func writtenQuery() pagemap.Query {
	skip := pagemap.Skipped()
	return pagemap.Query{
		Protect:  true,
		Inverted: skip,
		Mask:     skip | pagemap.WPAllowed | pagemap.Written,
		AnyOf:    pagemap.Present | pagemap.Swapped,
		Return:   pagemap.Written, // the same for all, so that neighbours are one region
	}
}

// staleQuery finds pages of registered areas that are protected.
func staleQuery() pagemap.Query {
	skip := pagemap.Skipped() | pagemap.Written
	return pagemap.Query{
		Inverted: skip,
		Mask:     skip | pagemap.WPAllowed,
		AnyOf:    pagemap.Present | pagemap.Swapped,
		Return:   pagemap.WPAllowed,
	}
}

// untrackedQuery finds all pages of areas that are not registered, written or
// not: nothing can be said of them.
func untrackedQuery() pagemap.Query {
	skip := pagemap.Skipped() | pagemap.WPAllowed
	return pagemap.Query{Inverted: skip, Mask: skip, AnyOf: pagemap.Present | pagemap.Swapped, Return: pagemap.WPAllowed}
}

// presentQuery finds all pages.
func presentQuery() pagemap.Query {
	skip := pagemap.Skipped()
	return pagemap.Query{Inverted: skip, Mask: skip, AnyOf: pagemap.Present | pagemap.Swapped, Return: pagemap.ZeroPage}
}

// registeredQuery finds areas that are registered, with or without pages.
func registeredQuery() pagemap.Query {
	return pagemap.Query{Mask: pagemap.WPAllowed, Return: pagemap.WPAllowed}
}

// scan walks over a span and returns the pages that the query finds, in lazy areas or not:
// what a walk protects must be reported, also where an area has grown since the areas were
// read.
func scan(pm *pagemap.File, over span, q pagemap.Query, buf []pagemap.Region) ([]pagestream.Range, error) {
	var pages []pagestream.Range
	q.Start, q.End = over.start, over.end
	err := pm.Walk(q, buf, func(found []pagemap.Region) {
		for _, r := range found {
			pages = appendRange(pages, pagestream.Range{Start: r.Start, Pages: r.Pages()})
		}
	})
	return pages, otherMemory(err)
}

// otherMemory says what a scan's ESRCH means.
func otherMemory(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w (%w)", errOtherMemory, err)
	}
	return err
}

// count returns how many lazy pages the query finds; an error counts as none.
func (s *scratch) count(pm *pagemap.File, q pagemap.Query) uint64 {
	var sum uint64
	for _, sp := range s.areas.spans {
		q.Start, q.End = sp.start, sp.end
		pm.Walk(q, s.regions, func(found []pagemap.Region) {
			s.areas.within(found, func(_ int, r pagemap.Region) { sum += r.Pages() })
		})
	}
	return sum
}
