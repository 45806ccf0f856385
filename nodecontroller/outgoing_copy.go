package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// watchInterval is how often progress is told, milliseconds.
const watchInterval = 250

// copyMemory has the shim copy until the rounds have ended.
func (m *outgoing) copyMemory() error {
	m.move(nodev1.Phase_PHASE_STARTED, "started", "asking the pod's shim to track its memory")
	ctx := m.undecided
	err := m.begin(ctx)
	if err != nil {
		return m.fail(err)
	}
	m.move(nodev1.Phase_PHASE_MIGRATING, "tracking", fmt.Sprintf("engine %s: %s", m.engine, m.engineReason))
	switch {
	case m.orchestrator == nil && m.mode() == modeCold:
		return nil
	case m.orchestrator == nil:
		return m.awaitConverged(ctx)
	case m.request.LatePod:
		err = m.awaitConverged(ctx)
	default:
		err = m.copyAndPlace(ctx)
	}
	if err != nil {
		return m.fail(err)
	}
	return m.fail(agreed(m.orchestrator.Await(ctx, m.id)))
}

// copyAndPlace waits for the end of the rounds, which comes after that of placing
// the pod.
func (m *outgoing) copyAndPlace(parent context.Context) error {
	group, ctx := errgroup.WithContext(parent)
	group.Go(func() error { return m.place(ctx) })
	group.Go(func() error { return m.awaitConverged(ctx) })
	return group.Wait()
}

func (m *outgoing) awaitConverged(ctx context.Context) error {
	select {
	case <-m.converged:
		m.tell("converged", "the rounds have ended: "+m.stopReason())
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin connects to the shim, has it begin, and watches it from then on: the
// shim aborts when nobody does.
func (m *outgoing) begin(ctx context.Context) error {
	shim, err := m.d.dialShim(ctx, m.pod.ID)
	if err != nil {
		return err
	}
	m.shim = shim
	req, err := m.beginRequest(ctx)
	if err != nil {
		return err
	}
	m.use = m.d.link.join(m.request.Bandwidth)
	req.Share = m.use.current()
	begun, err := shim.Begin(ctx, req)
	if err != nil {
		return fmt.Errorf("the pod's shim cannot begin: %w", plain(err))
	}
	m.mu.Lock()
	m.engine, m.engineReason = begun.Engine, begun.EngineReason
	m.descriptors, m.tmpfs, m.tmpfsContent = begun.Descriptors, begun.Tmpfs, begun.TmpfsContent
	m.mu.Unlock()
	// The watch outlives the time before the decision: it ends with the shim's
	// connection.
	stream, err := shim.Watch(context.WithoutCancel(ctx), &shimv1.WatchRequest{Migration: m.id, IntervalMs: watchInterval})
	if err != nil {
		return fmt.Errorf("watch the pod's shim: %w", plain(err))
	}
	m.goroutines.Go(func() { m.watch(stream) })
	m.goroutines.Go(func() { m.use.tell(context.WithoutCancel(ctx), shim, m.id, m.log) })
	return nil
}

func (m *outgoing) beginRequest(ctx context.Context) (*shimv1.BeginRequest, error) {
	req := &shimv1.BeginRequest{
		Migration:   m.id,
		PeerAddress: m.address,
		PeerName:    m.request.To,
		Token:       m.token,
		PkiDir:      m.d.config.PKIDir,
		Policy: &shimv1.Policy{
			Tracker:    m.request.Tracker,
			MaxRounds:  m.request.MaxRounds,
			MaxTimeMs:  m.request.MaxTimeMs,
			DirtyLimit: m.request.DirtyLimit,

			Rule: m.request.Rule, DowntimeLimitMs: m.request.DowntimeLimitMs, FirstRounds: m.request.FirstRounds,
			OnStall: m.request.OnStall, Standstill: m.expectedStandstill(),
			Mode: leavingMode(m.request), ReconnectMs: m.request.ReconnectMs,
			StuckAfterMs: uint64(time.Duration(m.d.config.StuckAfter).Milliseconds()),
		},
		Compression: m.request.Compression,
		WholePages:  m.request.WholePages,
		CompareDump: m.request.CompareDump,
		Streams:     m.request.Streams,
		Bandwidth:   m.request.Bandwidth,
		FilesLater:  m.orchestrator != nil && !m.request.LatePod,
		Volumes:     volumesForShim(m.volumes),
	}
	for _, c := range m.description.Containers {
		req.Containers = append(req.Containers, c.ID)
		shm, err := m.d.cri.SharedMemory(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		if shm != "" {
			req.ShmDir = shm
		}
	}
	return req, nil
}

func volumesForShim(volumes []cri.Volume) []*shimv1.Volume {
	var out []*shimv1.Volume
	for _, v := range volumes {
		w := &shimv1.Volume{Name: v.Name, Dir: v.Dir}
		for _, m := range v.Mounts {
			w.Mounts = append(w.Mounts, &shimv1.VolumeMount{Container: uint32(m.Container), Path: m.Path})
		}
		out = append(out, w)
	}
	return out
}

// watch takes in what the shim tells. Until the decision, the shim's failure or
// its end breaks the migration off.
func (m *outgoing) watch(stream shimv1.Migration_WatchClient) {
	converged, placing := false, false
	for {
		p, err := stream.Recv()
		if err != nil {
			_ = m.abort(fmt.Errorf("the pod's shim is lost: %w", plain(err)))
			return
		}
		m.mu.Lock()
		m.progress = progressOf(p)
		m.mu.Unlock()
		if !cutOver(p.State) {
			m.tell(kindProgress, "")
		}
		m.use.report(usageOf(p, time.Now()))
		switch answerOf(p.State) {
		case shimAborted:
			_ = m.abort(fmt.Errorf("the pod's shim broke off: %s", p.Error))
		case shimCommitted:
			return
		}
		if toPlace(p) && !placing {
			placing = true
			close(m.toPlace)
		}
		if p.State == shimv1.State_STATE_CONVERGED && !converged {
			converged = true
			close(m.converged)
		}
	}
}

// cutOver says whether a shim has sent all of a frozen pod: who is told of that has it stand still for longer, and hears of the end soon.
func cutOver(s shimv1.State) bool {
	return s == shimv1.State_STATE_CUT_OVER || s == shimv1.State_STATE_COMMITTED
}

func (m *outgoing) stopReason() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.progress.GetStopReason()
}

// cutOver freezes the pod, sends the rest and has the destination restore it, or
// keep it where the pod comes late. When it returns nil both sides have the frozen
// pod and wait for the decision.
func (m *outgoing) cutOver() error {
	// From here on a dead daemon may have asked the shim to commit.
	if err := m.save(sourceDeciding, throughReboot); err != nil {
		return err
	}
	ctx := m.undecided
	lockable, err := m.lockable(ctx)
	if err != nil {
		return m.fail(err)
	}
	cutOver := m.approach(ctx)
	m.tell("freezing", "freezing the pod and sending the rest")
	m.quiet(ctx)
	if err := m.agree(false); err != nil {
		return m.fail(err)
	}
	m.times.CutOver = time.Now()
	cut, err := m.shim.CutOver(ctx, cutOver)
	if err != nil {
		return m.fail(fmt.Errorf("cut over: %w", plain(err)))
	}
	if cut.FrozenUnixNano == 0 {
		cut.FrozenUnixNano = m.times.CutOver.UnixNano()
	}
	m.cut = cut
	m.noteLeft(cut.LeftPages, throughCrash)
	if m.request.LatePod {
		return m.sealPeer(ctx)
	}
	if len(lockable) > 0 {
		m.goroutines.Go(func() { m.breakOffIfLocked(ctx, lockable) })
	}
	m.times.Restore = time.Now()
	if m.held, err = m.peer.Restore(ctx, &peerv1.RestoreRequest{Migration: m.id, ReconnectMs: m.request.ReconnectMs}); err != nil {
		return m.fail(fmt.Errorf("node %s cannot restore the pod: %w", m.request.To, plain(err)))
	}
	m.times.Held = time.Now()
	m.tellCompared()
	return nil
}

// tellCompared says that CRIU's own dump has been compared with, if it has.
func (m *outgoing) tellCompared() {
	if m.request.CompareDump {
		m.tell("compared", fmt.Sprintf("CRIU's own dump has the same %d pages as %s", m.held.ComparedPages, m.request.To))
	}
}

// approachLimit is how long a pod that runs, and its node's other pods that wait for their
// turn, are kept waiting for restores to start.
const approachLimit = 5 * time.Second

// approach has the destination start its restores, so that they only need the images. It
// returns how the cutover is to be, by whether all of them have been started.
func (m *outgoing) approach(ctx context.Context) *shimv1.CutOverRequest {
	cut := &shimv1.CutOverRequest{Migration: m.id}
	if m.request.LatePod {
		return cut // there is no pod to restore yet
	}
	m.times.Ahead = time.Now()
	r, err := m.peer.Approach(ctx, &peerv1.ApproachRequest{
		Migration: m.id, Descriptors: m.descriptors, Tmpfs: m.tmpfs, TmpfsContent: m.tmpfsContent,
	})
	if err == nil && r.Trouble != "" {
		err = errors.New(r.Trouble)
	}
	if err != nil {
		m.log.Warn("restores are not started ahead of the freeze, which takes longer", "error", plain(err))
	}
	cut.InNetwork = err == nil
	cut.FillsTmpfs = err == nil && r.FillsTmpfs
	cut.TmpfsFilled = cut.FillsTmpfs && r.TmpfsFilled
	cut.InNamespaces = err == nil && r.InNamespaces
	return cut
}

func progressOf(p *shimv1.Progress) *nodev1.Progress {
	q := &nodev1.Progress{
		Round:          p.Round,
		RoundPages:     p.RoundPages,
		RoundPagesDone: p.RoundPagesDone,
		PagesSent:      p.PagesSent,
		ZeroPages:      p.ZeroPages,
		UnchangedPages: p.UnchangedPages,
		DeltaPages:     p.DeltaPages,
		DeltaBytes:     p.DeltaBytes,
		Compression:    p.Compression,
		BytesSent:      p.BytesSent,
		WireBytesSent:  p.WireBytesSent,
		FileBytesSent:  p.FileBytesSent,
		Rate:           p.Rate,
		DirtyRate:      p.DirtyRate,
		EtaMs:          p.EtaMs,
		StopReason:     p.StopReason,
		MemoryBytes:    p.MemoryBytes,
		AwaitsPod:      p.AwaitsFiles,

		Rule: p.Rule, PredictedDowntimeUs: p.PredictedDowntimeUs, DowntimeLimitUs: p.DowntimeLimitUs, LeftBytes: p.LeftBytes,
		ThrottleMilliCpu: p.ThrottleMilliCpu, ThrottleOfMilliCpu: p.ThrottleOfMilliCpu,
		Fetching: p.Fetching, MissingPages: p.MissingPages, RemoteFaults: p.RemoteFaults, FetchEtaMs: p.FetchEtaMs,
	}
	for _, r := range p.Rounds {
		q.Rounds = append(q.Rounds, &nodev1.Round{
			Number:     r.Number,
			DirtyPages: r.DirtyPages,
			Bytes:      r.Bytes,
			WireBytes:  r.WireBytes,
			DurationUs: r.DurationUs,
			ScanUs:     r.ScanUs,
			StoodUs:    r.StoodUs,
			LeftPages:  r.LeftPages,

			PredictedDowntimeUs: r.PredictedDowntimeUs, PredictedLastBytes: r.PredictedLastBytes,
			DirtyRate: r.DirtyRate, RateCorrection: r.RateCorrection,
			PredictedDirtyRate: r.PredictedDirtyRate, PredictedDirtyBytes: r.PredictedDirtyBytes,
			DirtyLimit: r.DirtyLimit, ElapsedUs: r.ElapsedUs,
			ThrottleMilliCpu: r.ThrottleMilliCpu, ThrottleOfMilliCpu: r.ThrottleOfMilliCpu,
		})
	}
	return q
}
