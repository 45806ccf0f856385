package shim

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/pagestream/precopy"
	shimv1 "godwit.dev/godwit/shim/api/v1"
	"godwit.dev/godwit/shim/criu"
)

// cutOver freezes the pod and brings everything that is left to the
// destination, of which the request tells. After an error the pod runs on.
func (s *source) cutOver(ctx context.Context, r *shimv1.CutOverRequest) (*shimv1.CutOverResponse, error) {
	if err := s.beginCutOver(); err != nil {
		return nil, err
	}
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.work, func() { cancel(context.Cause(s.work)) })
	defer stop()
	settled := r.GetInNamespaces() && s.settled()
	for _, c := range s.containers {
		c.inNetwork, c.inNamespaces = r.GetInNetwork(), settled
		c.carriesTmpfs, c.tmpfsFilled = r.GetFillsTmpfs(), r.GetTmpfsFilled()
	}
	resp, err := s.cut(both)
	s.running.Done()
	if err == nil {
		err = s.move(shimv1.State_STATE_CUT_OVER)
	}
	if err != nil {
		s.end(shimv1.State_STATE_FAILED, err)
		return nil, err
	}
	s.log.Info("pod is cut over", "frozen_us", resp.GetTotalUs(), "dump_us", resp.GetDumpUs(),
		"pages_us", resp.GetPagesUs(), "files_us", resp.GetFilesUs(), "pages", resp.GetPages())
	return resp, nil
}

// beginCutOver moves on and counts the cutover as work, in one step, so that an
// end that comes meanwhile waits for it.
func (s *source) beginCutOver() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.moveLocked(shimv1.State_STATE_CUTTING_OVER); err != nil {
		return err
	}
	s.running.Add(1)
	return nil
}

// frozenWindow measures the parts of the time that the pod stands still.
type frozenWindow struct {
	began time.Time
	resp  *shimv1.CutOverResponse
}

// since is the time from the freeze until now, microseconds.
func (w *frozenWindow) since() uint64 { return uint64(time.Since(w.began).Microseconds()) }

// cut does the cutover: CRIU is started and the files are brought up to date
// while the pod still runs; then everything at once.
func (s *source) cut(ctx context.Context) (*shimv1.CutOverResponse, error) {
	s.holdCollector() // from here, so that what goes on has ended at the freeze
	if err := s.approach(ctx); err != nil {
		return nil, err
	}
	if err := s.callWitnesses(ctx); err != nil {
		return nil, err
	}
	defer s.dismissWitnesses()
	before := s.link.files.bytes()
	// Before the freeze: what is held back stops when it is its turn to run.
	s.brake.release()
	if err := noteStanding(s.containers); err != nil {
		return nil, err
	}
	s.startClock()
	w := &frozenWindow{began: time.Now(), resp: &shimv1.CutOverResponse{}}
	w.resp.FrozenUnixNano = w.began.UnixNano()
	s.link.session.SetUrgent(true)
	if err := s.freeze(ctx); err != nil {
		return nil, err
	}
	w.resp.FreezeUs = w.since()
	if err := s.hearWitnesses(ctx, w); err != nil {
		return nil, err
	}
	work, all := errgroup.WithContext(ctx)
	work.Go(func() error { return s.dumpAll(all, w) })
	last := s.lastPages
	if s.isLeaving() {
		last = s.leaveLast
	}
	work.Go(func() error { return last(all, w) })
	if err := work.Wait(); err != nil {
		return nil, err
	}
	if err := s.link.session.Flush(ctx); err != nil {
		return nil, fmt.Errorf("last files: %w", err)
	}
	if s.serving != nil {
		s.serving.start()
	}
	w.resp.ImageBytes = s.link.files.bytes() - before
	w.resp.TotalUs = w.since()
	return w.resp, nil
}

// approach does what can be done before the freeze.
func (s *source) approach(ctx context.Context) error {
	if _, err := s.sysvOwner(); err != nil {
		return err
	}
	var work errgroup.Group
	work.Go(func() error {
		s.connections = s.listed()
		return nil
	})
	for _, c := range s.containers {
		work.Go(func() error {
			s.openTmpfs(c)
			var err error
			if c.clocks, err = criu.TimeNamespace(ctx, c.pid, runReaped); err != nil {
				s.log.Warn("CRIU forks for the container's clocks", "container", c.id, "error", err)
			}
			return c.startDump(ctx)
		})
	}
	if !s.cold() || s.isLeaving() {
		work.Go(func() error { return s.syncFiles(ctx) })
	}
	work.Go(func() error { return s.copyContents(ctx) })
	if err := work.Wait(); err != nil {
		return err
	}
	s.link.stopKeeping()
	select {
	case <-s.link.kept:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// freeze stops all containers together. They have been noted, and the clock that thaws them if nothing gets on runs.
func (s *source) freeze(ctx context.Context) error {
	var all errgroup.Group
	for _, c := range s.containers {
		all.Go(func() error {
			var err error
			if c.standing, err = c.freezer.freezeAtRest(ctx); err != nil {
				return fmt.Errorf("container %s: %w", c.id, err)
			}
			return nil
		})
	}
	return all.Wait()
}

// dumpAll has CRIU dump all containers at once and sends files and images.
func (s *source) dumpAll(ctx context.Context, w *frozenWindow) error {
	owner, err := s.sysvOwner()
	if err != nil {
		return err
	}
	work, all := errgroup.WithContext(ctx)
	for _, c := range s.containers {
		work.Go(func() error {
			if err := c.dumpFrozen(all, s.link.scan); err != nil {
				return err
			}
			if err := c.witness.agrees(c.images); err != nil {
				return fmt.Errorf("container %s: %w", c.id, err)
			}
			w.noteDump(s)
			skip, _, err := s.link.rounds.FinishShared(all, c.index, c.images)
			if err != nil {
				return err
			}
			idle, err := criu.Idle(c.images)
			if err != nil {
				return err
			}
			skip = append(skip, idle...)
			stood, stats, err := s.link.rounds.FinishContents(all, c.index, c.images, skip)
			if err != nil {
				return err
			}
			skip = append(skip, stood...)
			s.log.Info("private memory that CRIU dumped", "container", c.id, "files", len(stood), "pages", stats.Sent, "known", stats.Unchanged, "guards_hidden", c.dumping.Features != "", "begun_again", c.restarted)
			if c != owner {
				if skip, err = c.withoutSysV(skip); err != nil {
					return err
				}
			}
			return s.sendImages(all, c, skip)
		})
	}
	work.Go(func() error { return s.syncFrozen(all) })
	work.Go(s.stillSettled)
	if err := work.Wait(); err != nil {
		return err
	}
	if err := s.sendRemaps(ctx); err != nil {
		return err
	}
	w.resp.FilesUs = w.since()
	return nil
}

// noteDump notes when the last container's images were complete.
func (w *frozenWindow) noteDump(s *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dumped++
	w.resp.DumpUs = w.since()
}

// sendRemaps sends the files again if CRIU made names for deleted ones while it
// dumped (criu/files-reg.c, create_link_remap: link_remap.N beside the file).
func (s *source) sendRemaps(ctx context.Context) error {
	for _, c := range s.containers {
		has, err := criu.HasRemaps(c.images)
		if err != nil {
			return fmt.Errorf("images of container %s: %w", c.id, err)
		}
		if has {
			return s.syncFrozen(ctx)
		}
	}
	return nil
}

// lastPages sends what is dirty.
func (s *source) lastPages(ctx context.Context, w *frozenWindow) error {
	var final precopy.FinalStat
	final, err := s.link.rounds.Final(ctx)
	if err != nil {
		return err
	}
	w.resp.PagesUs = w.since()
	w.resp.Pages = final.Copied.Sent
	w.resp.Bytes = final.Copied.Sent * 4096
	return nil
}
