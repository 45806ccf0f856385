package shim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// defaultStreams is how many streams carry pages: with fewer, encryption is the
// bottleneck; more only cost memory.
const defaultStreams = 2

// link is what a source holds while it is connected to its destination.
type link struct {
	session *wire.Session
	// files carries all file trees, in order, on the session's last stream.
	files *fileStream
	// tracker, scan and injector are WriteProtect's, predumps are SoftDirty's.
	tracker  *track.Tracker
	scan     *lastScan
	injector *track.Helper
	predumps *predumps
	shared   *precopy.Shared
	contents *precopy.Contents // nil: the destination takes none
	rounds   *precopy.Rounds
	shm      *tree
	volumes  []*tree
	// stopKeeping ends the rounds that go on until the cutover, kept is closed
	// when they have ended.
	stopKeeping context.CancelFunc
	kept        chan struct{}
}

// pageSession lets the rounds use all streams of a session but the last.
type pageSession struct{ *wire.Session }

func (s pageSession) Streams() int { return s.Session.Streams() - 1 }

func (s pageSession) Stream(i int) precopy.Stream { return s.Session.Stream(i) }

// connect opens everything that a source needs before its first round.
func (s *source) connect(ctx context.Context) error {
	r := s.request
	credentials, err := wire.LoadCredentials(r.GetPkiDir())
	if err != nil {
		return err
	}
	if len(r.GetToken()) != 32 {
		return fmt.Errorf("token has %d bytes instead of 32", len(r.GetToken()))
	}
	if err := s.prepareLeaving(ctx, credentials); err != nil {
		return err
	}
	compression := wire.Auto
	if name := r.GetCompression(); name != "" {
		if compression, err = wire.ParseCompression(name); err != nil {
			return err
		}
	}
	streams := int(r.GetStreams())
	if streams == 0 {
		streams = defaultStreams
	}
	l := &link{kept: make(chan struct{})}
	s.link = l
	l.session, err = wire.Dial(ctx, wire.DialOptions{
		Address: r.GetPeerAddress(), ServerName: r.GetPeerName(), Credentials: credentials,
		Migration: s.id, Token: [32]byte(r.GetToken()), Streams: streams + 1,
		Compression: compression, Bandwidth: int64(r.GetBandwidth()),
	})
	if err != nil {
		return fmt.Errorf("connect to node %s: %w", r.GetPeerName(), err)
	}
	s.useLink(l.session)
	l.files = newFileStream(l.session)
	if err := s.openTrees(); err != nil {
		return err
	}
	if l.shared, err = precopy.NewShared(s.log); err != nil {
		return err
	}
	if l.session.TakesContents() {
		if l.contents, err = precopy.NewContents(s.log); err != nil {
			return err
		}
	}
	policy, err := policyOf(r.GetPolicy())
	if err != nil {
		return err
	}
	config := precopy.Config{
		Policy: policy, Session: pageSession{l.session},
		Shared: l.shared, Contents: l.contents, WholePages: r.GetWholePages(), Progress: s.note, Log: s.log,
	}
	if s.brake != nil {
		config.Brake = s.brake
	}
	if err := s.useEngine(&config); err != nil {
		return err
	}
	l.rounds, err = precopy.New(config)
	return err
}

// policyOf reads a policy. What it does not say is for package precopy to choose.
func policyOf(p *shimv1.Policy) (precopy.Policy, error) {
	rule, err := precopy.ParseRule(p.GetRule())
	if err != nil {
		return precopy.Policy{}, err
	}
	m, err := parseMode(p.GetMode())
	if err != nil {
		return precopy.Policy{}, err
	}
	onStall, err := precopy.ParseOnStall(p.GetOnStall())
	return precopy.Policy{
		Rule: rule, OnStall: onStall, MaxRounds: int(p.GetMaxRounds()), MaxTime: time.Duration(p.GetMaxTimeMs()) * time.Millisecond,
		DirtyLimit: p.GetDirtyLimit(), DowntimeLimit: time.Duration(p.GetDowntimeLimitMs()) * time.Millisecond,
		FirstRounds: int(p.GetFirstRounds()), Standstill: standstillOf(p.GetStandstill()), Leaves: m == modeHybrid,
	}, err
}

func standstillOf(s *shimv1.Standstill) precopy.Standstill {
	us := func(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
	return precopy.Standstill{Freeze: us(s.GetFreezeUs()), Dump: us(s.GetDumpUs()), Restore: us(s.GetRestoreUs())}
}

// processes lists the pod's processes for the tracker. A process that ends
// while it is listed is left out.
func (s *source) processes() ([]track.Process, error) {
	var out []track.Process
	for _, c := range s.containers {
		pids, err := c.processes()
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			id, err := vpid(pid)
			if err != nil {
				continue
			}
			out = append(out, track.Process{PID: pid, Space: pagestream.Space{
				Container: c.index, Kind: pagestream.Process, ID: uint64(id),
			}})
		}
	}
	return out, nil
}

// copyContents sends ahead what CRIU will dump of private memory, see precopy.Contents.
func (s *source) copyContents(ctx context.Context) error {
	processes, err := s.processes()
	if err != nil {
		return err
	}
	memories := make([]precopy.Memory, len(processes))
	for i, p := range processes {
		memories[i] = precopy.Memory{PID: p.PID, Space: p.Space}
	}
	stats, err := s.link.rounds.CopyContents(ctx, memories)
	s.log.Debug("private memory that CRIU will dump is copied ahead", "pages", stats.Sent, "known", stats.Unchanged)
	return err
}

// rounds copies files and memory until the cutover begins, or until ctx ends.
func (s *source) rounds(ctx context.Context) error {
	l := s.link
	defer close(l.kept)
	keep, stop := context.WithCancel(ctx)
	defer stop()
	l.stopKeeping = stop
	if s.request.GetFilesLater() {
		return ended(ctx, s.roundsThenFiles(ctx, keep))
	}
	if err := s.syncFiles(ctx); err != nil {
		return ended(ctx, err)
	}
	result, err := l.rounds.Run(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	s.stalled(result.Decision)
	if err := s.syncFiles(ctx); err != nil {
		return ended(ctx, err)
	}
	if err := s.converge(ctx, result.Decision.Explain()); err != nil {
		return err
	}
	if s.isLeaving() {
		return nil // what is dirty goes after the cutover
	}
	return ended(ctx, l.rounds.Keep(ctx, keep.Done()))
}

// converge says that the cutover may come, and why.
func (s *source) converge(ctx context.Context, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress = cloneProgress(s.progress)
	s.progress.StopReason = reason
	return ended(ctx, s.moveLocked(shimv1.State_STATE_CONVERGED))
}

// ended forgives errors of work that was called off.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// note keeps what the rounds report for the watchers.
func (s *source) note(p precopy.Progress) {
	stats := s.link.session.Stats()
	out := &shimv1.Progress{
		Round: uint32(p.Round), RoundPages: p.RoundPages, RoundPagesDone: p.RoundPagesDone,
		PagesSent: stats.Pages, ZeroPages: stats.ZeroPages, BytesSent: p.Bytes, WireBytesSent: stats.WireBytes,
		FileBytesSent: s.link.files.bytes(),
		Rate:          uint64(p.Rate), DirtyRate: uint64(p.DirtyRate), EtaMs: uint64(p.ETA.Milliseconds()),
		MemoryBytes:         p.MemoryBytes,
		UnchangedPages:      p.Unchanged,
		DeltaPages:          stats.DeltaPages,
		DeltaBytes:          stats.DeltaBytes,
		Compression:         s.link.session.Compression(),
		PredictedDowntimeUs: uint64(p.Downtime.Microseconds()), LeftBytes: p.Left,
	}
	out.ThrottleMilliCpu, out.ThrottleOfMilliCpu = milli(p.Throttle.Cores), milli(p.Throttle.Of)
	if n := len(p.Decisions); n > 0 {
		d := p.Decisions[n-1]
		out.Rule, out.DowntimeLimitUs, out.StopReason = string(d.Rule), uint64(d.DowntimeLimit.Microseconds()), d.Explain()
	}
	for i, r := range p.Rounds {
		round := &shimv1.Round{
			Number: uint32(r.Number), DirtyPages: r.Pages, Bytes: r.Copied.Sent * pagestream.PageSize,
			DurationUs: uint64((r.Scan + r.Copy).Microseconds()), ScanUs: uint64(r.Scan.Microseconds()),
			WireBytes: r.WireBytes, StoodUs: uint64(r.Stood.Microseconds()), LeftPages: r.Hot + r.Behind, DirtyRate: uint64(r.DirtyRate()),
		}
		noteDecision(round, p.Decisions[i])
		out.Rounds = append(out.Rounds, round)
	}
	s.mu.Lock()
	if len(p.Decisions) == 0 { // there was nothing to decide after no round: converge knows more
		out.StopReason = s.progress.GetStopReason()
	}
	s.progress = out
	s.mu.Unlock()
	s.changed.signal()
}

// noteDecision adds to a round what was decided after it, and by what.
func noteDecision(round *shimv1.Round, d precopy.Decision) {
	round.PredictedDowntimeUs = uint64(d.Forecast.Downtime.Microseconds())
	round.PredictedLastBytes = d.Forecast.Last
	round.RateCorrection = int64(-d.S0.Correction)
	round.PredictedDirtyRate, round.PredictedDirtyBytes = uint64(d.S0.Rate), d.S0.Predicted
	round.DirtyLimit, round.ElapsedUs = d.Limit, uint64(d.Elapsed.Microseconds())
	round.ThrottleMilliCpu, round.ThrottleOfMilliCpu = milli(d.Throttle.Cores), milli(d.Throttle.Of)
}

// milli is so many cores in thousandths.
func milli(cores float64) uint32 { return uint32(math.Round(1000 * cores)) }

// hangUp ends the session: cleanly after a commit, with the cause otherwise.
func (l *link) hangUp(cause error) {
	if errors.Is(cause, errCommitted) {
		l.session.Close()
		return
	}
	l.session.Abort(cause)
}

// clearWork removes the directories of a migration's work.
func (s *source) clearWork() {
	for _, c := range s.containers {
		clearSourceDir(c.bundle)
		os.RemoveAll(dumpDir(c.container))
		os.Remove(filepath.Dir(dumpDir(c.container))) // unless it is a destination's too
	}
}

// release gives up the connection and what tracked the pod. Closing the
// tracker takes 50 ms for each GB, so it comes last, when the pod runs again
// or is gone. The directories come first: a source that is gone is removed as soon
// as its daemon asks, and this shim ends with it.
func (s *source) release() {
	forgetStanding(s.containers)
	s.clearWork()
	l := s.link
	if l == nil {
		return
	}
	if l.session != nil {
		l.hangUp(context.Cause(s.work))
	}
	if l.rounds != nil {
		l.rounds.Close()
	}
	for _, t := range s.trees() {
		t.close()
	}
	if l.shared != nil {
		l.shared.Close()
	}
	if l.predumps != nil {
		l.predumps.close()
		s.clearWork() // a pre-dump that was under way has made its directory again
	}
	if l.tracker != nil {
		l.tracker.Close()
	}
	if l.injector != nil {
		l.injector.Close()
	}
}
