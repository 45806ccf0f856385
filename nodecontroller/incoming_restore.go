package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/pagestream/store"
	"godwit.dev/godwit/pagestream/witness"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// restore is this node's vote: it returns when the pod is restored and held.
func (m *incoming) restore(ctx context.Context, reconnect uint64) (*peerv1.RestoreResponse, error) {
	if err := m.advance(destinationRestoring, throughCrash); err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := m.seal(); err != nil {
		return nil, err
	}
	compared, err := m.compareDump()
	if err != nil {
		return nil, err
	}
	sealed := time.Now()
	if err := m.restoreContainers(ctx, reconnect); err != nil {
		return nil, err
	}
	restored := time.Now()
	// Having voted, only the source's word or an operator's ends the hold. What
	// was voted must be known to the next daemon; a reboot ends the pod anyway.
	if err := m.advance(destinationHeld, throughCrash); err != nil {
		return nil, err
	}
	m.say("restored and held: the source decides")
	return &peerv1.RestoreResponse{
		SealUs:    uint64(sealed.Sub(begun).Microseconds()),
		RestoreUs: uint64(restored.Sub(sealed).Microseconds()),

		ComparedPages: compared,
	}, nil
}

// seal sees that nothing is missing, and makes the store readable.
func (m *incoming) seal() error {
	if err := m.receiver.failure(); err != nil {
		return err
	}
	if err := m.receiver.close(); err != nil {
		return fmt.Errorf("files of the pod: %w", err)
	}
	if m.late {
		if err := m.receiver.spool.Complete(m.requiredTrees()...); err != nil {
			return fmt.Errorf("files of the pod: %w", err)
		}
	}
	var all errgroup.Group
	for i, c := range m.description.Containers {
		all.Go(func() error {
			if err := m.complete(uint16(i)); err != nil {
				return fmt.Errorf("container %s: %w", c.Name(), err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	return m.store.Seal()
}

// complete makes one container's images whole, and sees that none of its pages is missing.
func (m *incoming) complete(container uint16) error {
	if err := m.store.AssembleContents(container); err != nil {
		return err
	}
	missing, err := m.store.Complete(container)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", store.ErrMissing, listMissing(missing))
	}
	return m.store.MaterializeShared(container)
}

// compareDump compares what would be restored with CRIU's own dump, if that is asked for, and says how many pages it has
// compared.
func (m *incoming) compareDump() (pages uint64, err error) {
	if !m.compares {
		return 0, nil
	}
	for i, c := range m.description.Containers {
		n, err := compareContainer(m.storeDir, m.store.ImagesDir(uint16(i)), uint16(i))
		if err != nil {
			return 0, fmt.Errorf("container %s: %w", c.Name(), err)
		}
		pages += n
	}
	return pages, nil
}

func compareContainer(storeDir, images string, number uint16) (pages uint64, err error) {
	dumped, err := witness.Load(images)
	if err != nil {
		return 0, err
	}
	stored, err := store.OpenContainer(storeDir, number)
	if err != nil {
		return 0, err
	}
	pages, err = dumped.Compare(images, stored, number)
	return pages, errors.Join(err, stored.Close())
}

// listMissing names the first few runs of pages that are missing.
func listMissing(missing []store.Missing) string {
	const few = 4
	var b strings.Builder
	for i, r := range missing {
		if i == few {
			fmt.Fprintf(&b, ", and %d more", len(missing)-few)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s of %s", r.Range, r.Space)
	}
	return b.String()
}

// restoreContainers has the shim restore all containers side by side. Pages that were left at
// the source are waited for so long, milliseconds, if it is away.
func (m *incoming) restoreContainers(ctx context.Context, reconnect uint64) error {
	var token []byte
	if m.receiver.leaves() {
		token = m.token[:]
	}
	shim, err := m.d.dialShim(ctx, m.made.Sandbox)
	if err != nil {
		return err
	}
	defer shim.close()
	group, ctx := errgroup.WithContext(ctx)
	for i, container := range m.made.Containers {
		group.Go(func() error {
			req := m.restoreRequest(i, container)
			req.FetchToken, req.ReconnectMs = token, reconnect
			req.ImagesInPlace = m.inPlace != nil && m.inPlace[i]
			_, err := shim.Restore(ctx, req)
			if err != nil {
				return fmt.Errorf("restore container %s: %w", m.description.Containers[i].Name(), plain(err))
			}
			return nil
		})
	}
	return group.Wait()
}

// restoreRequest is what the shim is asked to restore, as container i of the pod.
func (m *incoming) restoreRequest(i int, container string) *shimv1.RestoreRequest {
	return &shimv1.RestoreRequest{
		Migration: m.id,
		Container: container,
		Index:     uint32(i),
		ImagesDir: store.ImagesDir(m.storeDir, uint16(i)),
		StoreDir:  m.storeDir,
	}
}

// commit carries the decision out: the pod runs, or will when it has come; then the
// answer is nil. Being told again is harmless.
func (m *incoming) commit(ctx context.Context) (*peerv1.CommitResponse, error) {
	m.hear()
	if m.stage() == destinationAborting { // for good, and busy until the source has heard it
		return nil, m.notHeld()
	}
	m.busy.Lock()
	defer m.busy.Unlock()
	switch m.stage() {
	case destinationCommitted:
	case destinationSealed, destinationAwaiting:
		return nil, m.takeOver(throughCrash)
	case destinationHeld:
		if err := m.advance(destinationCommitted, throughCrash); err != nil {
			return nil, err
		}
	default:
		return nil, m.notHeld()
	}
	m.mu.Lock()
	m.doubt = false
	m.mu.Unlock()
	resumed, err := m.resume(ctx)
	if err != nil {
		return nil, m.notResumed(ctx, plain(err))
	}
	m.say("committed: the pod runs, its memory is filled in")
	m.committed()
	r := m.current()
	return &peerv1.CommitResponse{
		ResumedUnixNano: resumed.ResumedUnixNano, RanForUs: ranFor(resumed.ResumedUnixNano, time.Now()),
		Trouble: resumed.Trouble, Sandbox: r.Sandbox, PodIp: m.podIP,
	}, nil
}

// notHeld is what a source hears that tells its decision where nothing is held.
func (m *incoming) notHeld() error {
	return fmt.Errorf("migration %s is at %s, not held: %w", m.id, m.stage(), errdefs.ErrDataLoss)
}

// ranFor is how long a pod has run that was let go at a time of this node's clock, microseconds.
func ranFor(since int64, now time.Time) uint64 {
	return uint64(max(0, now.UnixNano()-since) / 1000)
}

// resume has the shim let the pod run. What goes wrong meanwhile is the migration's
// detail.
func (m *incoming) resume(ctx context.Context) (*shimv1.ResumeResponse, error) {
	sandbox := m.current().Sandbox
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		m.d.whileResuming(watch, sandbox, m.id, m.say)
	}()
	defer func() {
		stop()
		<-watched
	}()
	return m.d.resumeShim(ctx, sandbox, m.id)
}

// notResumed says whether telling the commit again can help.
func (m *incoming) notResumed(ctx context.Context, why error) error {
	kind := error(errdefs.ErrUnavailable)
	shim, err := m.d.askShim(ctx, m.current().Sandbox, m.id)
	if err == nil && decideCommitted(shim) == destinationForget {
		kind = errdefs.ErrDataLoss
	}
	return fmt.Errorf("the pod is not resumed: %w: %w", why, kind)
}

func (m *incoming) current() record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record
}
