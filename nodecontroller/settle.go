package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

const (
	// abortDeadline is what the destination may take to drop everything.
	abortDeadline = 3 * time.Minute
	// commitDeadline is how long the destination's acknowledgement is waited
	// for before the commit is told again.
	commitDeadline = 15 * time.Second
	// lostAfter is how long a destination that does not answer must have been out of
	// the cluster to be taken for lost.
	lostAfter = time.Minute
	// askAgain is the pause between two attempts at something that has to
	// succeed one day.
	askAgain = time.Second
)

var (
	// errInDoubt: this daemon ends before it could learn what was decided.
	errInDoubt = errors.New("it is not known whether the migration is committed")
	// errDestinationLost: the destination owned the pod, and has lost it.
	errDestinationLost = errors.New("the destination lost the pod after the commit")
)

// pause waits, and returns an error if ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settleSource finds out what became of a migration of which the shim's answer
// was lost. nil means that the destination owns the pod; errInDoubt that ctx
// ended first; any other error that the source must roll back.
func (d *Daemon) settleSource(ctx context.Context, r record, o Orchestrator, log *slog.Logger) error {
	for {
		action, err := d.askSource(ctx, r)
		if err != nil {
			log.Warn("the shim hangs, asking again", "error", err)
		}
		switch action {
		case sourceFinish:
			return nil
		case sourceAbort:
			return errAbortedByShim
		case sourceBury:
			log.Warn("the source's shim is dead and the destination holds the pod: deciding for the destination")
			err = d.bury(ctx, r, o)
			switch {
			case err == nil:
				return nil
			case errors.Is(err, errDisagreed) && ctx.Err() == nil:
				return err
			}
			log.Error("the dead source cannot be removed, the destination must wait", "error", err)
		}
		if pause(ctx, askAgain) != nil {
			return fmt.Errorf("migration %s: %w", r.Migration, errInDoubt)
		}
	}
}

// askSource asks the shim, and the destination if the shim is gone, and says
// what to do.
func (d *Daemon) askSource(ctx context.Context, r record) (sourceAction, error) {
	shim, err := d.askShim(ctx, r.Sandbox, r.Migration)
	if err != nil {
		return sourceAskAgain, err
	}
	peer := peerUnreachable
	if shim == shimUnreachable {
		peer = d.askStage(ctx, r.Peer, d.addressOf(r), r.Migration)
	}
	return decideSource(r.Stage, shim, peer), nil
}

// addressOf is where a record's peer is now, or was.
func (d *Daemon) addressOf(r record) string {
	if address, err := d.peers.lookup(r.Peer); err == nil {
		return address
	}
	return r.Address
}

// abortSource lets the source run on, tells the destination, and forgets the
// migration. It returns ErrCommitted if the shim knows better.
func (d *Daemon) abortSource(ctx context.Context, r record, reason string, log *slog.Logger) error {
	if err := d.abortShim(ctx, r.Sandbox, r.Migration, reason); err != nil {
		if isCode(err, errdefs.IsFailedPrecondition) {
			return fmt.Errorf("migration %s: %w", r.Migration, ErrCommitted)
		}
		if !errors.Is(err, errShimGone) && !isCode(err, errdefs.IsNotFound) {
			return fmt.Errorf("the source's shim cannot abort: %w", plain(err))
		}
	}
	if err := d.tellAbort(ctx, r, reason); err != nil {
		// It will ask, and learn that the migration is not known.
		log.Warn("the destination was not told of the abort", "error", err)
	}
	return d.journal.remove(r.Migration)
}

// tellAbort has the destination drop everything; it tries for a while.
func (d *Daemon) tellAbort(ctx context.Context, r record, reason string) error {
	var err error
	for range 3 {
		var p *peerClient
		if p, err = d.dialPeer(ctx, r.Peer, d.addressOf(r)); err == nil {
			actx, cancel := context.WithTimeout(ctx, abortDeadline)
			_, err = p.Abort(actx, &peerv1.AbortRequest{Migration: r.Migration, Reason: reason})
			cancel()
			p.close()
		}
		if err == nil {
			return nil
		}
		if pause(ctx, askAgain) != nil {
			break
		}
	}
	return plain(err)
}

// tellCommit tells the destination until it acknowledges, or has left the cluster
// for good. The answer is nil if the destination had finished before: a destination
// that voted drops the pod only on this node's word, or an operator's, or with its own
// end, which it knows of when it was started again.
func (d *Daemon) tellCommit(ctx context.Context, r record, log *slog.Logger) (*peerv1.CommitResponse, error) {
	return d.tellCommitWaiting(ctx, r, 0, log)
}

// tellCommitWaiting is tellCommit of a destination that may wait with its answer for
// a pod that comes late.
func (d *Daemon) tellCommitWaiting(ctx context.Context, r record, wait time.Duration, log *slog.Logger) (*peerv1.CommitResponse, error) {
	var missing absence
	for {
		p, err := d.dialPeer(ctx, r.Peer, d.addressOf(r))
		if err == nil {
			var resp *peerv1.CommitResponse
			cctx, cancel := context.WithTimeout(ctx, commitDeadline)
			resp, err = p.Commit(cctx, &peerv1.CommitRequest{Migration: r.Migration, WaitMs: uint32(wait.Milliseconds()), Boot: r.PeerBoot})
			cancel()
			p.close()
			switch {
			case err == nil:
				return resp, nil
			case isCode(err, errdefs.IsNotFound):
				return nil, nil
			case isCode(err, errdefs.IsDataLoss):
				return nil, fmt.Errorf("node %s: %w: %w", r.Peer, errDestinationLost, plain(err))
			}
		}
		if why := d.lostNode(r, &missing); why != nil {
			return nil, fmt.Errorf("node %s: %w: %w: %w", r.Peer, errDestinationLost, why, plain(err))
		}
		log.Warn("the destination has not acknowledged the commit, telling it again", "error", plain(err))
		if err := pause(ctx, askAgain); err != nil {
			return nil, fmt.Errorf("node %s has not acknowledged the commit: %w", r.Peer, err)
		}
	}
}

// errNodeGone: nobody has seen the node in the cluster for lostAfter.
var errNodeGone = errors.New("the node is gone from the cluster")

// lostNode says why a record's peer, which does not answer, will never again; nil if it
// may. One that merely does not answer says nothing.
func (d *Daemon) lostNode(r record, missing *absence) error {
	if !r.Kubelet {
		return nil
	}
	err := d.peers.standing(r.Peer)
	switch {
	case errors.Is(err, ErrOutOfService):
		return ErrOutOfService
	case missing.lasts(errors.Is(err, ErrUnknownPeer), time.Now()):
		return errNodeGone
	}
	return nil
}

// absence is since when a node has been out of the cluster.
type absence struct{ since time.Time }

// lasts says whether a node that is out of the cluster now has been so, each time it
// was looked for, for long enough to be lost.
func (a *absence) lasts(out bool, now time.Time) bool {
	switch {
	case !out:
		a.since = time.Time{}
	case a.since.IsZero():
		a.since = now
	}
	return out && now.Sub(a.since) >= lostAfter
}

// removeSource removes what is left of a pod that has moved away, or has the cluster
// do so.
func (d *Daemon) removeSource(ctx context.Context, r record, o Orchestrator, log *slog.Logger) error {
	remove := func() error { return d.cri.Remove(ctx, r.Sandbox) }
	if r.Kubelet {
		remove = func() error { return o.RemoveSource(ctx, r.Migration) }
	}
	return again(ctx, log, "what the moved pod left is not removed yet", func() error {
		if err := remove(); err != nil {
			return err
		}
		return d.journal.remove(r.Migration)
	})
}

// again does what has to succeed one day until it does. It returns do's error when ctx ends first.
func again(ctx context.Context, log *slog.Logger, fails string, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		log.Warn(fails+", trying again", "error", err)
		if pause(ctx, askAgain) != nil {
			return err
		}
	}
}

// saveAgain saves a record of which others depend, whatever ails the disk meanwhile.
func (d *Daemon) saveAgain(ctx context.Context, r record, log *slog.Logger) error {
	return again(ctx, log, "the record cannot be written", func() error { return d.journal.save(r, throughReboot) })
}

// recoverSource carries on with a migration that an earlier daemon left, and says
// whether it is committed.
func (d *Daemon) recoverSource(ctx context.Context, r record, log *slog.Logger) (committed bool, err error) {
	var o Orchestrator
	if r.Kubelet {
		o = recovered{d, r}
	}
	err = d.settleSource(ctx, r, o, log)
	switch {
	case errors.Is(err, errInDoubt):
		return false, err
	case err != nil:
		err = again(ctx, log, "the abort fails", func() error {
			err := d.abortSource(ctx, r, "the source's daemon restarted", log)
			if committed = errors.Is(err, ErrCommitted); committed {
				return nil
			}
			return err
		})
		if !committed {
			return false, err
		}
	}
	r.Stage = sourceCommitted
	if err := d.saveAgain(ctx, r, log); err != nil {
		return true, err
	}
	d.mu.Lock()
	d.recovering[r.Migration] = r
	d.mu.Unlock()
	return true, d.carryOn(ctx, r, o, log)
}

// carryOn sees a committed migration of an earlier daemon to its end.
func (d *Daemon) carryOn(ctx context.Context, r record, o Orchestrator, log *slog.Logger) error {
	if r.LatePod {
		_, err := d.carryLate(ctx, r, o, false, log, func(_, message string) { log.Info(message) })
		return err
	}
	_, err := d.tellCommit(ctx, r, log)
	if err != nil && !errors.Is(err, errDestinationLost) {
		return err
	}
	if err == nil {
		err = d.awaitFetchedAgain(ctx, r, log)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		log.Error("the pod is lost", "error", err)
		if err := d.reportLost(ctx, r, o, err, log); err != nil {
			return err
		}
	}
	r.Left = 0
	if err := d.saveAgain(ctx, r, log); err != nil {
		return err
	}
	return d.removeSource(ctx, r, o, log)
}

// reportLost has the cluster know of a pod that was lost after its commit. Of a
// migration that this daemon began its events tell.
func (d *Daemon) reportLost(ctx context.Context, r record, o Orchestrator, why error, log *slog.Logger) error {
	earlier, ok := o.(recovered)
	if !ok {
		return nil
	}
	return again(ctx, log, "the cluster does not take down that the pod is lost", func() error {
		return earlier.Lost(ctx, r.Migration, why)
	})
}
