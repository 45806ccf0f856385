package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"godwit.dev/godwit/cri"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/pagestream/store"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// committed has run see the pod through.
func (m *incoming) committed() { m.ranOnce.Do(func() { close(m.ran) }) }

// drop takes the source's word that the source runs on, and waits until nothing
// of the migration is left here.
func (m *incoming) drop(ctx context.Context, reason string) error {
	if s := m.stage(); s == destinationCommitted || s == destinationAwaiting {
		return fmt.Errorf("migration %s: %w", m.id, ErrCommitted)
	}
	m.calledOff()
	m.fail(fmt.Errorf("%w: %s", errSourceBrokeOff, reason))
	select {
	case m.verdict <- peerv1.Outcome_OUTCOME_ABORTED:
	default:
	}
	select {
	case <-m.dropped:
		return nil
	case <-m.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resolve takes an operator's word on a migration in doubt, or that a late pod which
// was not restored yet is given up.
func (m *incoming) resolve(o peerv1.Outcome) error {
	m.mu.Lock()
	doubt := m.doubt || m.record.Stage == destinationAwaiting && o == peerv1.Outcome_OUTCOME_ABORTED
	m.mu.Unlock()
	if !doubt {
		return fmt.Errorf("migration %s is not in doubt: its source answers, or nothing is to be decided: %w", m.id, errdefs.ErrFailedPrecondition)
	}
	select {
	case m.verdict <- o:
		return nil
	default:
		return fmt.Errorf("migration %s is being resolved already: %w", m.id, errdefs.ErrFailedPrecondition)
	}
}

// settle decides about a migration that failed here, or whose source is lost.
// word is what the source or an operator said, if they did. It returns true
// when the migration has ended.
func (m *incoming) settle(ctx context.Context, word peerv1.Outcome) bool {
	m.fail(errSourceLost) // unless it failed already: no further call gets through
	m.busy.Lock()
	defer m.busy.Unlock()
	select {
	case <-m.ran:
		return false // run sees it through
	default:
	}
	r := m.current()
	var shim shimAnswer
	if r.Stage != destinationSealed { // there is none yet
		var err error
		if shim, err = m.d.askShim(ctx, r.Sandbox, m.id); err != nil {
			m.log.Warn("the shim hangs, asking again", "error", err)
			return false
		}
	}
	source := word
	if (r.Stage == destinationHeld || r.Stage == destinationSealed) && source == peerv1.Outcome_OUTCOME_UNSPECIFIED {
		source = m.d.askOutcome(ctx, r.Peer, m.d.addressOf(r), m.id)
	}
	return m.act(ctx, decideDestination(r.Stage, shim, source), source)
}

// act carries out what was decided, with busy held.
func (m *incoming) act(ctx context.Context, action destinationAction, source peerv1.Outcome) bool {
	m.mu.Lock()
	m.doubt = action == destinationHold && source == peerv1.Outcome_OUTCOME_UNSPECIFIED
	doubt := m.doubt
	m.mu.Unlock()
	switch action {
	case destinationHold:
		if doubt {
			m.say("IN DOUBT: the pod is held here, and its source cannot be asked whether it committed; " +
				"it is asked again. If the source node will never run again: godwitctl resolve " + m.id + " --source-is-gone")
		}
		return false
	case destinationAwait:
		if err := m.takeOver(throughReboot); err != nil {
			m.log.Error("the commit is not in the journal", "error", err)
		}
		return false
	case destinationAbandon:
		if source == peerv1.Outcome_OUTCOME_ABORTED {
			m.calledOff()
		}
		m.abandon(ctx)
		return true
	case destinationForget:
		m.say("the pod was committed and is gone")
		m.clean(ctx)
		return true
	case destinationResume:
		if _, err := m.resume(ctx); err != nil {
			m.log.Error("the pod is not resumed yet", "error", plain(err))
			return false
		}
	}
	if m.stage() != destinationCommitted {
		if err := m.advance(destinationCommitted, throughReboot); err != nil {
			m.log.Error("the commit is not in the journal", "error", err)
		}
	}
	m.committed()
	return false
}

// follow waits until the pod has all its memory, and removes the rest.
func (m *incoming) follow(ctx context.Context) {
	for {
		err := m.awaitFilled(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errPagesLost) {
			m.removeLost(ctx, err)
			break
		}
		shim, aerr := m.d.askShim(ctx, m.current().Sandbox, m.id)
		if aerr == nil && shim != shimRunning {
			m.log.Warn("the pod ended before it had all its memory", "error", err)
			break
		}
		if pause(ctx, askAgain) != nil {
			return
		}
	}
	m.clean(ctx)
	m.starts.wait()
	if m.late {
		m.awaitTold(ctx)
	}
}

// awaitFilled watches the shim until its fault servers have nothing left to do.
func (m *incoming) awaitFilled(ctx context.Context) error {
	s, err := m.d.dialShim(ctx, m.current().Sandbox)
	if err != nil {
		return err
	}
	defer s.close()
	stream, err := s.Watch(ctx, &shimv1.WatchRequest{Migration: m.id})
	if err != nil {
		return plain(err)
	}
	for {
		p, err := stream.Recv()
		if err != nil {
			return plain(err)
		}
		switch {
		case p.Lost != "":
			return fmt.Errorf("%w: %s", errPagesLost, p.Lost)
		case p.State == shimv1.State_STATE_FILLED:
			m.say(fmt.Sprintf("the pod has all its memory: %d pages, %d faults served", p.FilledPages, p.Faults))
			return nil
		case answerOf(p.State) == shimAborted:
			return fmt.Errorf("the shim broke off: %s", p.Error)
		}
	}
}

// clean removes what a committed migration needs no more; the pod stays.
func (m *incoming) clean(ctx context.Context) {
	m.until(ctx, func() error {
		return errors.Join(m.closeStore(), m.removeSpool(), os.RemoveAll(m.d.imageDir(m.id)), m.d.journal.remove(m.id))
	})
}

// abandon removes everything of the migration.
func (m *incoming) abandon(ctx context.Context) {
	why := context.Cause(m.alive)
	m.say(fmt.Sprintf("removing everything: %v", why))
	if m.stage() != destinationAborting {
		if err := m.advance(destinationAborting, throughReboot); err != nil {
			m.log.Error("the abort is not in the journal", "error", err)
		}
	}
	heard := m.sourceHeard()
	m.until(ctx, func() error { return m.remove(ctx, why, heard) })
	m.starts.wait()
	m.say(fmt.Sprintf("nothing of it is left here: %v", why))
	close(m.dropped)
	if !heard && m.awaitHeard(ctx) != nil {
		return // the journal hands over
	}
	// kubelet's pod has the images in use until the cluster has removed it, which
	// the source may do only when it has heard that all is well here.
	r := m.current()
	inUse := r.Kubelet && len(r.Images) > 0
	if heard && !inUse {
		return // remove has seen to the rest
	}
	m.until(ctx, func() error {
		if inUse {
			if err := m.awaitPodGone(ctx); err != nil {
				return err
			}
		}
		return m.forget(ctx, r)
	})
}

// until repeats do until it succeeds or ctx ends: the journal hands over then.
func (m *incoming) until(ctx context.Context, do func() error) {
	for {
		err := do()
		if err == nil {
			return
		}
		m.say(fmt.Sprintf("cleaning up fails, trying again: %v", err))
		if pause(ctx, askAgain) != nil {
			return
		}
	}
}

// remove undoes everything that was made here, from the youngest to the oldest; with the record, if the source has heard of it.
func (m *incoming) remove(ctx context.Context, why error, heard bool) error {
	r := m.current()
	removePod := m.removePod
	if r.Kubelet {
		removePod = m.releasePod
	}
	if err := removePod(ctx, r, why); err != nil {
		return err
	}
	if err := errors.Join(m.closeStore(), m.removeSpool(), os.RemoveAll(m.d.imageDir(m.id))); err != nil {
		return err
	}
	if !heard || r.Kubelet && len(r.Images) > 0 {
		return nil // the record is needed, or the images are in use for a while
	}
	return m.forget(ctx, r)
}

// forget removes what came for the pod, which is gone, and the record.
func (m *incoming) forget(ctx context.Context, r record) error {
	var errs []error
	for _, image := range r.Images {
		errs = append(errs, m.d.removeImage(ctx, image, m.id))
	}
	if m.description != nil && !r.Kubelet { // the logs are kubelet's
		errs = append(errs, cri.RemoveLogDirectory(m.d.config.LogRoot, m.description))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return m.d.journal.remove(m.id)
}

// removePod removes the sandbox, known or found by its annotation: a daemon may
// have died between making it and noting it.
func (m *incoming) removePod(ctx context.Context, r record, why error) error {
	sandboxes, err := m.d.cri.Annotated(ctx, annotation, m.id)
	if err != nil {
		return err
	}
	return m.removeSandboxes(ctx, r, sandboxes, why)
}

// removeSandboxes removes sandboxes of the pod.
func (m *incoming) removeSandboxes(ctx context.Context, r record, sandboxes []string, why error) error {
	for _, sandbox := range sandboxes {
		// The starts must fail before the sandbox can go. A shim that is gone
		// has none.
		if err := m.d.abortShim(ctx, sandbox, m.id, fmt.Sprint(why)); err != nil && !isCode(err, errdefs.IsNotFound) {
			m.log.Warn("the shim does not abort, removing the sandbox anyway", "error", plain(err))
			m.clearDead(ctx, r, sandbox)
		}
		if err := m.d.cri.Remove(ctx, sandbox); err != nil {
			return err
		}
	}
	return nil
}

// clearDead clears up after a shim that died before the pod could run: what it
// restored is held by nobody, and containerd removes only the sandbox's part.
func (m *incoming) clearDead(ctx context.Context, r record, sandbox string) {
	if shim, err := m.d.dialShim(ctx, sandbox); !errors.Is(err, errShimGone) {
		if err == nil {
			shim.close()
		}
		return
	}
	for _, container := range r.Containers {
		if err := m.d.cri.ClearDeadTask(ctx, container); err != nil {
			m.log.Warn("something of a dead shim's container is left", "error", err)
		}
	}
}

// closeStore frees the store's memory, whichever daemon made it.
func (m *incoming) closeStore() error {
	var err error
	if m.receiver != nil {
		err = m.receiver.close()
	}
	if m.store != nil {
		return errors.Join(err, m.store.Remove())
	}
	return errors.Join(err, store.Cleanup(m.storeDir))
}

// removeImage removes an image that came for a migration that failed, unless
// another migration or container needs it by now.
func (d *Daemon) removeImage(ctx context.Context, image, migration string) error {
	d.mu.Lock()
	for id, other := range d.incoming {
		if _, err := other.image(image); id != migration && err == nil {
			d.mu.Unlock()
			return nil
		}
	}
	d.mu.Unlock()
	used, err := d.cri.ImageInUse(ctx, image)
	if err != nil || used {
		return err
	}
	return d.cri.RemoveImage(ctx, image)
}

// lost hears that the source's connection ended.
func (m *incoming) lost() {
	m.mu.Lock()
	m.heard = time.Time{}
	m.mu.Unlock()
}
