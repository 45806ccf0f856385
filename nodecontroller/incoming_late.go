package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/spool"
	"godwit.dev/godwit/pagestream/store"
)

// A late pod is made when the source's is gone, so after the commit: its name, or a
// volume of it, is free only then. Until it is there this node keeps everything that
// it will be restored from: memory and images in the store, files in a spool. After
// the commit there is no other copy, so nothing of that goes before the pod runs, and
// whatever fails is tried again with the next pod that kubelet makes.

// Between two attempts at restoring a late pod: kubelet makes it again meanwhile.
const (
	firstPause = time.Second
	maxPause   = 30 * time.Second
)

// errGivenUp: an operator does not want a late pod any more.
var errGivenUp = errors.New("an operator gave the pod up before it was restored")

// errStoreLost: what a late pod was to be restored from is gone.
var errStoreLost = errors.New("what the pod was to be restored from is lost: this node was started again")

// keepAll is this node's vote where the pod comes late: it returns when everything
// that it will be restored from is here.
func (m *incoming) keepAll(context.Context) (*peerv1.SealResponse, error) {
	if !m.late {
		return nil, fmt.Errorf("migration %s: its pod does not come late: %w", m.id, errdefs.ErrFailedPrecondition)
	}
	begun := time.Now()
	if err := m.seal(); err != nil {
		return nil, err
	}
	compared, err := m.compareDump()
	if err != nil {
		return nil, err
	}
	// As with a pod that is held: a reboot ends it anyway, the store is in memory.
	if err := m.advance(destinationSealed, throughCrash); err != nil {
		return nil, err
	}
	m.say("everything of the pod is here: the source decides")
	return &peerv1.SealResponse{SealUs: uint64(time.Since(begun).Microseconds()), ComparedPages: compared}, nil
}

// takeOver takes the decision that a late pod is this node's.
func (m *incoming) takeOver(d durability) error {
	m.mu.Lock()
	gone := m.gone
	m.doubt = false
	m.mu.Unlock()
	if gone != nil {
		m.toldOnce.Do(func() { close(m.told) })
		return fmt.Errorf("%w: %w", gone, errdefs.ErrDataLoss)
	}
	if m.stage() == destinationSealed {
		if err := m.advance(destinationAwaiting, d); err != nil {
			return err
		}
	}
	m.own()
	return nil
}

// own has run bring the pod up.
func (m *incoming) own() { m.ownedOnce.Do(func() { close(m.owned) }) }

// commitWithin is commit with some patience for a pod that comes late.
func (m *incoming) commitWithin(ctx context.Context, wait time.Duration) (*peerv1.CommitResponse, error) {
	r, err := m.commit(ctx)
	if r != nil || err != nil {
		return m.tellEnd(r, err)
	}
	patience := time.NewTimer(wait)
	defer patience.Stop()
	select {
	case <-m.ran:
		return m.tellEnd(m.commit(ctx))
	case <-m.done:
		return m.commit(ctx)
	case <-patience.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return &peerv1.CommitResponse{WaitsFor: m.detail}, nil
}

// tellEnd is an answer to the source, which is told by it if the pod went on.
func (m *incoming) tellEnd(r *peerv1.CommitResponse, err error) (*peerv1.CommitResponse, error) {
	if m.stage() == destinationCommitted {
		m.toldOnce.Do(func() { close(m.told) })
	}
	return r, err
}

// awaitTold waits, when a late pod has everything, until its source has asked: it asks
// again and again, and learns by the answer when the pod went on. A source that is not
// heard of is not waited for: it may be gone.
func (m *incoming) awaitTold(ctx context.Context) {
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	for m.silentFor() < silence {
		select {
		case <-m.told:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// bringUp restores a late pod as soon as there is one, and lets it run. It returns
// true if there is nothing to see through after that: it was lost, or ctx, the
// daemon's, has ended.
func (m *incoming) bringUp(ctx context.Context) bool {
	if err := m.intact(); err != nil {
		return m.lose(ctx, err)
	}
	stop := m.replaceIfNobodyDoes(ctx)
	err := m.untilGivenUp(ctx, m.restoreNext)
	stop()
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil:
		return m.lose(ctx, err)
	}
	return m.letRun(ctx)
}

// untilGivenUp ends do when an operator gives the pod up, and returns errGivenUp then.
func (m *incoming) untilGivenUp(parent context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case word := <-m.verdict:
				if word == peerv1.Outcome_OUTCOME_ABORTED { // else it says what is known
					cancel(errGivenUp)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	err := do(ctx)
	cancel(nil)
	watch.Wait()
	if err != nil && errors.Is(context.Cause(ctx), errGivenUp) {
		return errGivenUp
	}
	return err
}

// restoreNext restores the pod in the first sandbox in which that can be done. An
// error means that ctx has ended.
func (m *incoming) restoreNext(ctx context.Context) error {
	for wait := firstPause; ; wait = min(2*wait, maxPause) {
		err := m.arrive(ctx)
		if err == nil {
			err = m.stillWanted(ctx)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.say(fmt.Sprintf("the pod is not restored yet, its next sandbox is waited for: %v", err))
		if err := m.clearAttempt(ctx, err); err != nil {
			m.log.Error("what is left of the attempt cannot be removed", "error", err)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// intact says whether everything is still here.
func (m *incoming) intact() error {
	if m.description == nil {
		return errors.New("the pod's description cannot be read")
	}
	s, err := store.OpenSealed(m.storeDir)
	if err != nil {
		return fmt.Errorf("%w: %w", errStoreLost, err)
	}
	return s.Close()
}

// lose removes what the pod was to be restored from, and waits until the source has
// heard that it is lost before it forgets the migration.
func (m *incoming) lose(ctx context.Context, why error) bool {
	m.mu.Lock()
	m.gone = why
	m.mu.Unlock()
	m.say("LOST: " + why.Error())
	m.until(ctx, func() error {
		return errors.Join(m.removePod(ctx, m.current(), why), m.closeStore(), m.removeSpool())
	})
	select {
	case <-m.told:
		m.clean(ctx)
	case <-ctx.Done():
	}
	return true
}

// arrive waits for the pod and restores it: nil means that it is held here.
func (m *incoming) arrive(parent context.Context) error {
	if r := m.current(); r.Sandbox != "" { // noted by an earlier attempt, or daemon
		shim, err := m.d.askShim(parent, r.Sandbox, m.id)
		if err != nil {
			return err
		}
		if shim == shimHeld {
			return nil
		}
	}
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	m.say("waiting for the cluster to make the pod: kubectl describe pod says what it waits for")
	if err := m.findPod(ctx); err != nil {
		return err
	}
	m.say("the pod is here: its containers are started")
	m.receiver = newReceiver(nil, len(m.description.Containers), int64(m.memory))
	defer m.receiver.close()
	err := m.parkFound(ctx, func(err error) {
		if err == nil {
			err = errors.New("it ran: the shim did not restore it")
		}
		cancel(fmt.Errorf("a container did not wait for its restore: %w", err))
	})
	if err == nil {
		m.say("restoring")
		err = m.fillTrees(ctx)
	}
	if err == nil {
		err = m.restoreContainers(ctx, 0)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// ErrPodGone says that a pod is no longer in the cluster, or about to go.
var ErrPodGone = errors.New("the pod was deleted")

// PodLookup asks a cluster for a pod by the UID that its sandbox has: nil means that
// it is there to stay, an error that wraps ErrPodGone that it is not, and any other
// that it is not known.
type PodLookup func(ctx context.Context, namespace, name, uid string) error

// SetPodLookup has the daemon ask its cluster before it lets a late pod run. It is
// called before Run.
func (d *Daemon) SetPodLookup(lookup PodLookup) { d.podLookup = lookup }

// stillWanted sees that the pod in whose place this one is restored was not deleted
// meanwhile: kubelet does not look while the last container is being started, and
// another pod may have been made already. It waits for a cluster that does not answer.
func (m *incoming) stillWanted(ctx context.Context) error {
	if m.d.podLookup == nil {
		return nil
	}
	pod, err := m.d.cri.Find(ctx, m.current().Sandbox)
	if err != nil {
		return err
	}
	for {
		err := m.d.podLookup(ctx, pod.Namespace, pod.Name, pod.UID)
		if err == nil || errors.Is(err, ErrPodGone) {
			return err
		}
		m.say(fmt.Sprintf("restored and held: whether it is still wanted is not known: %v", err))
		if err := pause(ctx, askAgain); err != nil {
			return err
		}
	}
}

// fillTrees brings the pod's file trees to the state of the source's.
func (m *incoming) fillTrees(ctx context.Context) error {
	err := spool.Replay(m.spoolPath(), func(channel uint32, records []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return m.receiver.Blob(channel, records)
	})
	if err != nil {
		return fmt.Errorf("files of the pod: %w", err)
	}
	return nil
}

// letRun lets a held late pod run. That it may have run is on record before.
func (m *incoming) letRun(ctx context.Context) bool {
	if err := m.advance(destinationCommitted, throughCrash); err != nil {
		m.log.Error("the restored pod is not on record", "error", err)
	}
	for {
		_, err := m.resume(ctx)
		if err == nil {
			m.say("the pod runs, its memory is filled in")
			m.committed()
			return false
		}
		m.log.Error("the pod is not resumed yet", "error", plain(err))
		if ctx.Err() != nil {
			return true
		}
		shim, err := m.d.askShim(ctx, m.current().Sandbox, m.id)
		if err == nil && m.act(ctx, decideDestination(destinationCommitted, shim, peerv1.Outcome_OUTCOME_COMMITTED), peerv1.Outcome_OUTCOME_COMMITTED) {
			return true
		}
		select {
		case <-m.ran:
			return false
		default:
		}
		if pause(ctx, askAgain) != nil {
			return true
		}
	}
}

// clearAttempt removes the sandbox in which the pod was to be restored: kubelet
// makes another, in which nothing has been begun, or has made that of the next pod already.
func (m *incoming) clearAttempt(ctx context.Context, why error) error {
	r := m.current()
	remove := func() error { return m.removePod(ctx, r, why) }
	if r.Sandbox != "" {
		remove = func() error { return m.removeSandboxes(ctx, r, []string{r.Sandbox}, why) }
	}
	if err := remove(); err != nil {
		return err
	}
	m.starts.wait()
	m.starts = nil
	return m.note(func(r *record) { r.Sandbox, r.Containers = "", nil })
}
