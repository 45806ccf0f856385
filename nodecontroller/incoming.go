package nodecontroller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/pagestream/store"
)

// tokenSize is the length of the secret that admits a source's shim, bytes.
const tokenSize = 32

// silence is how long a source may say nothing before the destination takes it
// for lost: longer than what the source allows the destination.
const silence = 2 * heartbeatDeadline

// errSourceLost: the source is gone, and this node had not voted.
var errSourceLost = errors.New("the source is lost")

// errHoldLost: the pod was restored and held, and its shim died before the decision.
var errHoldLost = errors.New("the shim that held the pod is dead, or does not answer")

// incoming is a migration whose destination this node is. The source's calls
// drive it, one at a time; it ends by abandon, or after the commit by follow.
type incoming struct {
	d           *Daemon
	id          string
	source      *peerv1.Node
	token       [tokenSize]byte
	description *cri.Description
	images      []cri.Image
	volumes     []string // names, in the order of the wire
	pod         uint64   // what the pod takes at its source, bytes; 0 if it is not known
	memory      uint64   // what is reserved for the store, bytes
	storeDir    string
	kubelet     bool // it makes the pod, and has it removed
	late        bool // and does so after the commit only
	compares    bool // with CRIU's own dump
	started     time.Time
	log         *slog.Logger
	done        chan struct{} // closed when nothing of it is left to do
	dropped     chan struct{} // closed when nothing is left that the source must know gone

	// alive ends, with the reason, when the migration is broken off here.
	alive context.Context
	fail  context.CancelCauseFunc

	// busy is held by the one call, or end, that is at work.
	busy sync.Mutex
	// What the calls have got so far, guarded by busy; run's alone from the stage
	// awaiting on.
	store    *store.Store
	made     cri.Made
	podIP    string
	starts   *starts
	receiver *receiver
	// inPlace says of each container whether its images arrive where CRIU waits for them; nil before approach.
	inPlace []bool

	mu     sync.Mutex
	record record    // guarded by mu
	heard  time.Time // when the source last called, guarded by mu
	detail string    // guarded by mu
	doubt  bool      // held, and the source cannot be asked; guarded by mu
	ended  time.Time // guarded by mu
	gone   error     // why a late pod can never be restored; guarded by mu
	called bool      // off, by the source or an operator: nobody has committed; guarded by mu

	// verdict takes the word of the source, or in doubt of an operator.
	verdict chan peerv1.Outcome
	ran     chan struct{} // closed by committed
	ranOnce sync.Once
	// owned is closed by own: the pod is this node's, and comes late.
	owned     chan struct{}
	ownedOnce sync.Once
	// told is closed when the source has heard what became of a late pod: that it
	// runs, or is lost.
	told     chan struct{}
	toldOnce sync.Once
}

func (m *incoming) stage() stage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.Stage
}

// advance goes to another stage, in the journal first.
func (m *incoming) advance(to stage, d durability) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := moveStage(m.record.Stage, to); err != nil {
		return err
	}
	r := m.record
	r.Stage = to
	r.Closed = to == destinationAborting
	r.Voted = r.Voted || to == destinationHeld
	if err := m.d.journal.save(r, d); err != nil {
		return err
	}
	m.record = r
	return nil
}

// note changes the record within its stage.
func (m *incoming) note(change func(*record)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.record)
	return m.d.journal.save(m.record, throughReboot)
}

// say tells operators what is going on.
func (m *incoming) say(detail string) {
	m.mu.Lock()
	m.detail = detail
	m.mu.Unlock()
	m.log.Info(detail, "stage", string(m.stage()))
}

// step carries out one call of the source, if the stage is the one that it is
// for. A failure breaks the migration off.
func (m *incoming) step(ctx context.Context, at stage, do func(context.Context) error) error {
	m.hear()
	m.busy.Lock()
	defer m.busy.Unlock()
	if m.alive.Err() != nil {
		return errgrpc.ToGRPCf(errdefs.ErrAborted, "%v", context.Cause(m.alive))
	}
	if s := m.stage(); s != at {
		return errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "migration %s is at %s, not %s", m.id, s, at)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(m.alive, func() { cancel(context.Cause(m.alive)) })
	defer stop()
	err := do(ctx)
	if err == nil {
		return nil
	}
	if m.alive.Err() != nil {
		err = context.Cause(m.alive)
	}
	m.log.Error("migration failed here", "error", err)
	m.fail(err)
	return answer(err)
}

// hear notes that the source lives.
func (m *incoming) hear() {
	m.mu.Lock()
	m.heard = time.Now()
	m.mu.Unlock()
}

func (m *incoming) silentFor() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.heard)
}

// ping is what the source learns once a second, and right before the decision:
// that the pod is held, then, is looked up and not remembered.
func (m *incoming) ping(ctx context.Context) *peerv1.PingResponse {
	m.hear()
	r := new(peerv1.PingResponse)
	stage := m.stage()
	if stage == destinationHeld {
		if shim, err := m.d.askShim(ctx, m.current().Sandbox, m.id); err != nil || shim != shimHeld && shim != shimRunning {
			m.fail(errors.Join(errHoldLost, err))
		}
	}
	if m.alive.Err() != nil {
		r.Error = context.Cause(m.alive).Error()
	}
	switch stage {
	case destinationCommitted, destinationAwaiting:
		r.Stage = peerv1.Stage_STAGE_COMMITTED
	case destinationHeld, destinationSealed:
		r.Stage = peerv1.Stage_STAGE_HELD
	case destinationAborting:
		r.Stage = peerv1.Stage_STAGE_UNKNOWN
	default:
		r.Stage = peerv1.Stage_STAGE_PREPARING
	}
	return r
}

// run keeps watch over the migration until it ends: it notices a silent source
// and a failure, abandons what is not committed, and sees a committed pod
// through. ctx is the daemon's: when it ends the next daemon recovers.
func (m *incoming) run(ctx context.Context) {
	defer close(m.done)
	defer m.d.forgetIncoming(m)
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	failed, owned := m.alive.Done(), m.owned
	for {
		var word peerv1.Outcome
		select {
		case <-ctx.Done():
			return
		case <-m.ran:
			m.follow(ctx)
			return
		case <-owned:
			owned = nil
			if m.bringUp(ctx) {
				return
			}
			continue
		case word = <-m.verdict:
		case <-failed:
			failed = nil // from here on at each tick
		case <-tick.C:
			if failed != nil && m.silentFor() < silence {
				continue
			}
		}
		if m.settle(ctx, word) {
			return
		}
	}
}

// status is the migration for a list.
func (m *incoming) status() *nodev1.Migration {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &nodev1.Migration{
		Id:              m.id,
		Role:            "destination",
		Pod:             m.record.Pod,
		From:            m.record.Peer,
		To:              m.d.config.NodeName,
		Phase:           phaseOf(m.record.Stage, !m.ended.IsZero()),
		Detail:          m.detail,
		StartedUnixNano: m.started.UnixNano(),
		InDoubt:         m.doubt,
		Destination:     &nodev1.Destination{Node: m.d.config.NodeName, Sandbox: m.record.Sandbox},
	}
	if !m.ended.IsZero() {
		s.EndedUnixNano = m.ended.UnixNano()
	}
	return s
}

// failure is why it failed here; nil if it is committed, or was left to the next
// daemon.
func (m *incoming) failure() error {
	if s := m.stage(); s == destinationCommitted || s == destinationAwaiting {
		return nil
	}
	return context.Cause(m.alive)
}

// phaseOf is a destination's stage as a phase of the migration.
func phaseOf(s stage, ended bool) nodev1.Phase {
	switch s {
	case destinationPreparing:
		return nodev1.Phase_PHASE_PREPARING
	case destinationCommitted:
		if ended {
			return nodev1.Phase_PHASE_SUCCEEDED
		}
		return nodev1.Phase_PHASE_MIGRATION_COMPLETE
	case destinationAwaiting:
		return nodev1.Phase_PHASE_MIGRATION_COMPLETE
	case destinationAborting:
		return nodev1.Phase_PHASE_FAILED
	}
	return nodev1.Phase_PHASE_MIGRATING
}
