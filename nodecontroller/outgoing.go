package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/cutover"
	"godwit.dev/godwit/pagestream/track"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// Why a migration is broken off before its commit.
var (
	// ErrCancelled: its operator asked for it.
	ErrCancelled = errors.New("cancelled")
	// ErrTimeout: it took longer than it was given.
	ErrTimeout = errors.New("not committed within the migration's timeout")
	// ErrPeerSilent: the destination does not answer any more.
	ErrPeerSilent = errors.New("the destination does not answer any more")
	// ErrCommitted is returned to who asks too late.
	ErrCommitted = errors.New("the migration is committed: the destination owns the pod")
	// errStopping: this daemon stops.
	errStopping = errors.New("the source's daemon is stopping")
)

// outgoing is a migration whose source this node is. Its run method carries it
// from Pending to its end; everything else asks or breaks it off.
type outgoing struct {
	d       *Daemon
	id      string
	request *nodev1.MigrateRequest
	pod     cri.Pod
	address string // the destination's
	// arrival is the migration by which the pod came, if its memory was not all
	// in when this one was asked for: this one waits for its end.
	arrival *incoming
	// orchestrator is the cluster's part; nil if this daemon's peer makes the pod.
	orchestrator Orchestrator
	started      time.Time
	log          *slog.Logger
	feed         *feed
	done         chan struct{} // closed when it has ended and nothing of it is left to do

	// undecided ends, with the reason, when the migration is broken off before
	// its commit. It means nothing once deciding is set.
	undecided context.Context
	breakOff  context.CancelCauseFunc

	// What run has got so far; run's alone.
	description  *cri.Description
	volumes      []cri.Volume // only if kubelet makes the pod
	memory       uint64
	token        []byte
	peer         *peerClient
	shim         *shimClient
	cut          *shimv1.CutOverResponse
	held         *peerv1.RestoreResponse
	descriptors  []string // of the containers, as the shim has them
	tmpfs        []string // their own file systems in memory, the same
	tmpfsContent [][]byte // what those hold, the same
	downtime     *nodev1.Downtime
	placed       bool      // it has one of the node's places
	use          *linkUser // its part of the node's link; nil before the shim begins
	times        cutover.Times
	owned        bool           // the destination has acknowledged that the pod is its own
	goroutines   sync.WaitGroup // heartbeat and watch
	converged    chan struct{}  // closed by watch when the rounds have ended
	// toPlace is closed by watch when the destination's pod is to be made.
	toPlace chan struct{}

	mu     sync.Mutex
	record record       // guarded by mu
	phase  nodev1.Phase // guarded by mu
	detail string       // guarded by mu
	// engine finds dirty pages, engineReason says why it does; guarded by mu, and
	// fixed by run when the shim has begun.
	engine, engineReason string
	deciding             bool                // the shim was asked to commit: too late to break off; guarded by mu
	progress             *nodev1.Progress    // guarded by mu
	destination          *nodev1.Destination // guarded by mu
	result               *nodev1.Result      // guarded by mu
	ended                time.Time           // guarded by mu
}

// run is the migration. ctx is the daemon's: its end leaves what is to do after
// the commit to the next daemon.
func (m *outgoing) run(ctx context.Context) {
	defer close(m.done)
	defer m.feed.end()
	defer m.d.forgetOutgoing(m)
	defer m.givePlace()

	err := m.prepare()
	if err == nil {
		err = m.copyMemory()
	}
	if err == nil {
		err = m.inTurn(ctx)
	}
	switch {
	case errors.Is(err, errInDoubt):
		m.leaveInDoubt(err)
	case err != nil:
		m.rollBack(ctx, err)
	default:
		m.finish(ctx)
	}
}

// abort breaks the migration off; it returns ErrCommitted if that is too late.
// The end is waited for with done.
func (m *outgoing) abort(why error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deciding {
		return fmt.Errorf("migration %s: %w", m.id, ErrCommitted)
	}
	m.breakOff(why)
	return nil
}

// decide closes the time in which the migration can be broken off. It returns
// the reason if that was done already.
func (m *outgoing) decide() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.undecided.Err() != nil {
		return context.Cause(m.undecided)
	}
	m.deciding = true
	return nil
}

// mode is what the migration comes to: cold also if no tracker works here.
func (m *outgoing) mode() string {
	if m.engine == track.None.String() && !leavesPages(m.request) {
		return modeCold
	}
	return m.request.Mode
}

// fail returns err, or the reason for which the migration was broken off if
// that is what made err.
func (m *outgoing) fail(err error) error {
	if err != nil && m.undecided.Err() != nil {
		return context.Cause(m.undecided)
	}
	return err
}

// pending says whether nothing was done for the migration yet.
func (m *outgoing) pending() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.phase == nodev1.Phase_PHASE_PENDING
}

// move goes to another phase and says so.
func (m *outgoing) move(to nodev1.Phase, kind, message string) {
	m.mu.Lock()
	if err := movePhase(m.phase, to); err != nil {
		m.log.Error("defect: please report", "error", err)
	}
	m.phase = to
	m.detail = message
	m.mu.Unlock()
	m.tell(kind, message)
}

// tell says what happened, in the present phase. Events are told in the order in which they happened, and none after the
// last: the shim's progress may still come in when the migration has ended.
func (m *outgoing) tell(kind, message string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if kind == kindProgress && m.result != nil {
		return
	}
	if kind != kindProgress {
		m.detail = message
		m.log.Info(message, "kind", kind, "phase", PhaseName(m.phase))
	}
	e := &nodev1.Event{
		Migration:   m.id,
		UnixNano:    time.Now().UnixNano(),
		Phase:       m.phase,
		Kind:        kind,
		Message:     message,
		Progress:    m.progress,
		Destination: m.destination,
		Result:      m.result,
	}
	m.d.observe(e)
	m.feed.publish(e)
}

// save writes the record as change makes it. At the moment of the commit it
// must take no time: see durability.
func (m *outgoing) save(to stage, d durability) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record.Stage != to {
		if err := moveStage(m.record.Stage, to); err != nil {
			return err
		}
	}
	m.record.Stage = to
	return m.d.journal.save(m.record, d)
}

// status is the migration for a list.
func (m *outgoing) status() *nodev1.Migration {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &nodev1.Migration{
		Id:              m.id,
		Role:            "source",
		Pod:             m.pod.FullName(),
		From:            m.d.config.NodeName,
		To:              m.request.To,
		Phase:           m.phase,
		Detail:          m.detail,
		StartedUnixNano: m.started.UnixNano(),
		Progress:        m.progress,
		Destination:     m.destination,
		Result:          m.result,
		Engine:          m.engine,
		EngineReason:    m.engineReason,
	}
	if !m.ended.IsZero() {
		s.EndedUnixNano = m.ended.UnixNano()
	}
	return s
}

// outcome is what the destination is told when it asks.
func (m *outgoing) outcome() peerv1.Outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.record.Stage == sourceCommitted:
		return peerv1.Outcome_OUTCOME_COMMITTED
	case m.phase == nodev1.Phase_PHASE_FAILED, m.phase == nodev1.Phase_PHASE_CANCELLED:
		return peerv1.Outcome_OUTCOME_ABORTED
	}
	return peerv1.Outcome_OUTCOME_PENDING
}
