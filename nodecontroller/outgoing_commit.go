package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/cutover"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// errAbortedByShim: the shim had broken off before it was asked to commit.
var errAbortedByShim = errors.New("the pod's shim broke off before the commit")

// commit is the decision. An error means that the source may and must run on.
// nil means that the destination owns the pod; it may not know yet.
func (m *outgoing) commit(ctx context.Context) error {
	if err := m.agree(true); err != nil {
		return m.fail(err)
	}
	if err := m.confirmHeld(); err != nil {
		return m.fail(err)
	}
	if err := m.decide(); err != nil {
		return err
	}
	asked := time.Now()
	if err := m.commitShim(ctx); err != nil {
		return err
	}
	m.times.Decided = time.Now()
	// The destination is told while the decision goes to the disk.
	saved := make(chan error, 1)
	go func() { saved <- m.save(sourceCommitted, throughReboot) }()
	cctx, cancel := context.WithTimeout(ctx, commitDeadline)
	r, err := m.peer.Commit(cctx, &peerv1.CommitRequest{Migration: m.id, Boot: m.current().PeerBoot})
	cancel()
	m.owned = err == nil
	if err == nil && r.ResumedUnixNano != 0 {
		m.measure(r)
		m.downtime.CommitUs = uint64(m.times.Decided.Sub(asked).Microseconds())
		m.downtime.ResumeUs = uint64(m.times.Resumed.Sub(m.times.Decided).Microseconds())
		m.downtime.Stages = cutover.Stages(m.times, m.cut, m.held)
	}
	if err := <-saved; err != nil {
		m.log.Error("the commit stands, but is not in the journal", "error", err)
	}
	m.move(nodev1.Phase_PHASE_MIGRATION_COMPLETE, "committed", m.request.To+" owns the pod")
	if err != nil {
		m.tell("note", fmt.Sprintf("%s owns the pod and does not answer, it is told again: %v%s", m.request.To, plain(err), m.ifItNeverAnswers()))
	}
	return nil
}

// confirmHeld asks the destination, as the last thing before the decision,
// whether it still holds the pod: its vote may be as old as this daemon has been
// stopped, and its shim may have died since.
func (m *outgoing) confirmHeld() error {
	ctx, cancel := context.WithTimeout(m.undecided, heartbeatDeadline)
	defer cancel()
	r, err := m.peer.Ping(ctx, &peerv1.PingRequest{Migration: m.id})
	switch {
	case err != nil:
		return fmt.Errorf("node %s: %w: %w", m.request.To, ErrPeerSilent, plain(err))
	case r.Error != "":
		return fmt.Errorf("node %s: %s", m.request.To, r.Error)
	case r.Stage != peerv1.Stage_STAGE_HELD:
		return fmt.Errorf("node %s does not hold the pod any more: it is at %s", m.request.To, r.Stage)
	}
	return nil
}

// commitShim asks the shim until it answers. If it dies over that, what to do is
// decided as after any other loss.
func (m *outgoing) commitShim(ctx context.Context) error {
	_, err := m.shim.Commit(ctx, &shimv1.CommitRequest{Migration: m.id})
	if err == nil {
		return nil
	}
	if isCode(err, errdefs.IsFailedPrecondition) {
		return fmt.Errorf("%w: %w", errAbortedByShim, plain(err))
	}
	m.log.Error("the shim's answer to the commit was lost", "error", err)
	return m.d.settleSource(ctx, m.current(), m.orchestrator, m.log)
}

func (m *outgoing) current() record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record
}

// resumedAt is when the pod was let go, by this node's clock, if the destination answered
// just now that it has run for so many microseconds: not before it was told to.
func resumedAt(told, answered time.Time, ranForUs uint64) time.Time {
	ranFor := time.Duration(min(ranForUs, uint64(max(0, answered.Sub(told).Microseconds())))) * time.Microsecond
	return answered.Add(-ranFor)
}

// measure notes the downtime as the nodes see it, and what went wrong over there.
func (m *outgoing) measure(r *peerv1.CommitResponse) {
	m.times.Resumed = resumedAt(m.times.Decided, time.Now(), r.RanForUs)
	if r.Trouble != "" {
		m.tell("note", "node "+m.request.To+" had to restore the pod more than once: "+r.Trouble)
	}
	m.downtime = &nodev1.Downtime{
		FreezeUs:   m.cut.FreezeUs,
		DumpUs:     m.cut.DumpUs,
		PagesUs:    m.cut.PagesUs,
		FilesUs:    m.cut.FilesUs,
		CutoverUs:  m.cut.TotalUs,
		SealUs:     m.held.SealUs,
		RestoreUs:  m.held.RestoreUs,
		MeasuredUs: uint64(max(0, m.times.Resumed.UnixNano()-m.cut.FrozenUnixNano) / 1000),
		ClocksUs:   (r.ResumedUnixNano - m.cut.FrozenUnixNano) / 1000,
	}
}

// ifItNeverAnswers says what helps if the destination's machine is gone for good.
func (m *outgoing) ifItNeverAnswers() string {
	if m.orchestrator == nil {
		return ""
	}
	return fmt.Sprintf(". If its machine is gone for good, delete its Node object, or taint it %s: the pod counts as lost then", OutOfServiceTaint)
}

// finish carries the decision through: the destination acknowledges it, and
// nothing of the pod is left here.
func (m *outgoing) finish(ctx context.Context) {
	defer m.release()
	if m.request.LatePod {
		m.finishLate(ctx)
		return
	}
	if m.downtime == nil {
		r, err := m.d.tellCommit(ctx, m.current(), m.log)
		switch {
		case errors.Is(err, errDestinationLost):
			err = errors.Join(err, m.d.removeSource(ctx, m.current(), m.orchestrator, m.log))
			m.move(nodev1.Phase_PHASE_FAILED, "lost", err.Error())
			m.close(err)
			return
		case err != nil:
			m.close(fmt.Errorf("committed, not finished: %w", err))
			return
		case r != nil:
			m.measure(r)
		}
	}
	m.tell("resumed", "the pod runs on "+m.request.To)
	if err := m.finishFetching(ctx); err != nil {
		return
	}
	if err := m.d.removeSource(ctx, m.current(), m.orchestrator, m.log); err != nil {
		m.close(fmt.Errorf("the pod runs on %s; what it left here could not be removed: %w", m.request.To, err))
		return
	}
	m.move(nodev1.Phase_PHASE_SUCCEEDED, "cleaned", "nothing of the pod is left on "+m.d.config.NodeName)
	m.close(nil)
}

// rollBack lets the source run on and has the destination drop everything. It
// returns when both is done, or when the destination cannot be reached: that
// asks for the outcome by itself.
func (m *outgoing) rollBack(ctx context.Context, why error) {
	defer m.release()
	m.breakOff(why)
	m.tell("note", "breaking off: "+why.Error())
	to := nodev1.Phase_PHASE_FAILED
	if errors.Is(why, ErrCancelled) || errors.Is(why, errStopping) {
		to = nodev1.Phase_PHASE_CANCELLED
	}
	for !m.pending() { // else nobody was asked for anything
		err := m.d.abortSource(ctx, m.current(), why.Error(), m.log)
		if err == nil {
			break
		}
		if errors.Is(err, ErrCommitted) {
			m.log.Error("the shim says that it committed", "after", why)
			m.move(nodev1.Phase_PHASE_MIGRATION_COMPLETE, "committed", m.request.To+" owns the pod")
			m.finish(ctx)
			return
		}
		m.tell("note", "the abort fails, trying again: "+err.Error())
		if pause(ctx, askAgain) != nil {
			m.close(fmt.Errorf("%w (and then: %w)", why, err))
			return // the journal hands it to the next daemon
		}
	}
	m.move(to, "rolledback", "the pod runs on "+m.d.config.NodeName)
	m.close(why)
}

// leaveInDoubt ends this daemon's part in a migration of which it cannot tell
// whether it is committed: the journal hands it to the next daemon.
func (m *outgoing) leaveInDoubt(why error) {
	defer m.release()
	m.close(why)
}

// release ends what run started.
func (m *outgoing) release() {
	m.breakOff(nil)
	if m.use != nil {
		m.use.leave()
	}
	if m.shim != nil {
		m.shim.close()
	}
	if m.peer != nil {
		m.peer.close()
	}
	m.goroutines.Wait()
}

// close fixes the result and tells it: the last event.
func (m *outgoing) close(failure error) {
	m.mu.Lock()
	m.ended = time.Now()
	r := &nodev1.Result{
		Succeeded:   failure == nil,
		Mode:        m.mode(),
		Pod:         m.pod.FullName(),
		From:        m.d.config.NodeName,
		Destination: m.destination,
		Downtime:    m.downtime,
		TotalUs:     uint64(m.ended.Sub(m.started).Microseconds()),
		Totals:      m.progress,
		Engine:      m.engine,
	}
	r.EngineReason = m.engineReason
	r.FinalPages, r.FinalBytes, r.ImageBytes = m.cut.GetPages(), m.cut.GetBytes(), m.cut.GetImageBytes()
	r.LeftPages, r.ComparedPages = m.cut.GetLeftPages(), m.held.GetComparedPages()
	if r.Destination == nil && m.record.Stage == sourceCommitted { // a late pod whose end the destination's daemon could not tell
		r.Destination = &nodev1.Destination{Node: m.request.To}
	}
	if failure != nil {
		r.Error, r.Lost = failure.Error(), errors.Is(failure, errDestinationLost) || errors.Is(failure, errPagesLost)
	}
	m.result = r
	m.mu.Unlock()
	if failure == nil {
		m.learn()
	}
	last := "done"
	if failure != nil {
		last = failure.Error()
	}
	m.tell("ended", last)
	m.d.observeEnd(m.status(), failure)
}
