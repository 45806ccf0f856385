package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// What a source does differently where the destination's pod comes late: see
// incoming_late.go.

const (
	// latePoll is how long the destination may wait with each answer, when it is
	// asked whether the late pod runs: less than commitDeadline.
	latePoll = 5 * time.Second
	// longWait is after how long people are told that a late pod still does not run.
	longWait = 30 * time.Second
)

// sealPeer has the destination see that it has everything: its vote where the pod
// comes late.
func (m *outgoing) sealPeer(ctx context.Context) error {
	r, err := m.peer.Seal(ctx, &peerv1.SealRequest{Migration: m.id})
	if err != nil {
		return m.fail(fmt.Errorf("node %s has not got everything of the pod: %w", m.request.To, plain(err)))
	}
	m.held = &peerv1.RestoreResponse{SealUs: r.SealUs, ComparedPages: r.ComparedPages}
	m.tellCompared()
	return nil
}

// finishLate carries the decision through where the pod comes late.
func (m *outgoing) finishLate(ctx context.Context) {
	r, err := m.d.carryLate(ctx, m.current(), m.orchestrator, m.owned, m.log, m.tell)
	switch {
	case errors.Is(err, errDestinationLost):
		m.move(nodev1.Phase_PHASE_FAILED, "lost", err.Error())
		m.close(err)
		return
	case err != nil:
		m.close(fmt.Errorf("committed, not finished: %w", err))
		return
	case r != nil:
		m.mu.Lock()
		m.destination = &nodev1.Destination{Node: m.request.To, Sandbox: r.Sandbox, PodIp: r.PodIp}
		m.mu.Unlock()
		m.measure(r)
	}
	m.tell("resumed", "the pod runs on "+m.request.To)
	m.move(nodev1.Phase_PHASE_SUCCEEDED, "cleaned", "nothing of the pod is left on "+m.d.config.NodeName)
	m.close(nil)
}

// carryLate sees a committed migration whose pod comes late to its end: the
// destination knows, the cluster makes the pod there and removes the one here, and
// the destination says that it runs. owned says that it knows already. The answer is
// nil if it had forgotten the migration: the pod runs, or has ended since.
func (d *Daemon) carryLate(ctx context.Context, r record, o Orchestrator, owned bool, log *slog.Logger, tell func(kind, message string)) (*peerv1.CommitResponse, error) {
	if !owned {
		_, err := d.tellCommit(ctx, r, log)
		if errors.Is(err, errDestinationLost) {
			if rerr := d.reportLost(ctx, r, o, err, log); rerr != nil {
				return nil, rerr
			}
			return nil, errors.Join(err, d.removeSource(ctx, r, o, log))
		}
		if err != nil {
			return nil, err
		}
	}
	if err := d.replaceSource(ctx, r, o, log, tell); err != nil {
		return nil, err
	}
	resp, err := d.awaitLate(ctx, r, log, tell)
	switch {
	case errors.Is(err, errDestinationLost):
		if rerr := d.reportLost(ctx, r, o, err, log); rerr != nil {
			return nil, rerr
		}
	case err != nil:
		return nil, err
	}
	return resp, errors.Join(err, d.journal.remove(r.Migration))
}

// replaceSource has the cluster make the destination's pod and remove the source's,
// in this order: the source's object is what the other may be made from. Both are
// harmless when asked again.
func (d *Daemon) replaceSource(ctx context.Context, r record, o Orchestrator, log *slog.Logger, tell func(kind, message string)) error {
	tell("place", "asking the cluster for the pod on "+r.Peer)
	for told := false; ; told = true {
		err := o.MakePod(ctx, r.Migration)
		if err == nil {
			err = o.RemoveSource(ctx, r.Migration)
		}
		if err == nil {
			return nil
		}
		log.Warn("the cluster has not replaced the pod yet", "error", err)
		if !told {
			tell("note", "the cluster has not replaced the pod yet: "+err.Error())
		}
		if pause(ctx, askAgain) != nil {
			return fmt.Errorf("the pod that has moved to node %s is not replaced: %w", r.Peer, err)
		}
	}
}

// awaitLate returns when the late pod runs, and tells meanwhile what it waits for.
func (d *Daemon) awaitLate(ctx context.Context, r record, log *slog.Logger, tell func(kind, message string)) (*peerv1.CommitResponse, error) {
	begun, last, warned := time.Now(), "", false
	for {
		resp, err := d.tellCommitWaiting(ctx, r, latePoll, log)
		if err != nil || resp == nil || resp.ResumedUnixNano != 0 {
			return resp, err
		}
		if resp.WaitsFor != last {
			last = resp.WaitsFor
			tell("waiting", r.Peer+": "+last)
		}
		if waited := time.Since(begun); waited > longWait && !warned {
			warned = true
			tell("note", fmt.Sprintf("the pod does not run %v after the commit; %s keeps all of it. It says: %s", waited.Round(time.Second), r.Peer, last))
		}
	}
}
