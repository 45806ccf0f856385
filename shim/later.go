package shim

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// A destination whose pod kubelet makes has no file trees at first. Memory goes into its
// store, files into its spool, until little of both is left (headstart.go): then the pod
// is to be made. What has changed since goes when the trees are there, beside whatever
// the memory does then, and is synced twice before the rounds count as ended, as it is
// where the trees come first.

// noRounds is why the rounds of a pod have ended that is frozen first.
const noRounds = "stop-and-copy has none"

// roundsThenFiles is rounds where the trees come later: memory is copied and then kept
// up with until keep ends.
func (s *source) roundsThenFiles(ctx, keep context.Context) error {
	work, all := errgroup.WithContext(ctx)
	copied := make(chan string, 1) // why the rounds ended
	work.Go(func() error {
		result, err := s.link.rounds.Run(all)
		if err != nil {
			return err
		}
		s.stalled(result.Decision)
		s.noteCopied()
		copied <- result.Decision.Explain()
		if s.isLeaving() {
			return nil // what is dirty goes after the cutover
		}
		return s.link.rounds.Keep(all, keep.Done())
	})
	work.Go(func() error {
		if err := s.goAhead(all, s.syncFiles); err != nil {
			return err
		}
		if err := s.awaitTrees(all); err != nil {
			return err
		}
		s.link.rounds.EndBy(time.Now().Add(lastRounds))
		if err := s.syncFiles(all); err != nil {
			return err
		}
		select {
		case reason := <-copied:
			if err := s.syncFiles(all); err != nil {
				return err
			}
			return s.converge(all, reason)
		case <-all.Done():
			return context.Cause(all)
		}
	})
	return work.Wait()
}

// waitForTrees is roundsThenFiles of a pod whose memory is not copied before it is
// frozen. Its files are, by sync.
func (s *source) waitForTrees(ctx context.Context, sync func(context.Context) error) error {
	s.noteCopied()
	if err := s.goAhead(ctx, sync); err != nil {
		return ended(ctx, err)
	}
	if err := s.awaitTrees(ctx); err != nil {
		return ended(ctx, err)
	}
	return s.converge(ctx, noRounds)
}

// awaitTrees waits until the destination has its file trees.
func (s *source) awaitTrees(ctx context.Context) error {
	select {
	case <-s.filesWanted:
		s.changed.signal()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// noteCopied notes that memory is as far as it can be.
func (s *source) noteCopied() {
	s.mu.Lock()
	s.copied = true
	s.mu.Unlock()
	s.changed.signal()
}

// treesReady says whether files may be sent.
func (s *source) treesReady() bool {
	select {
	case <-s.filesWanted:
		return true
	default:
		return false
	}
}
