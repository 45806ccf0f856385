package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// Orchestrator is a cluster's part in a migration: who asked for it makes the pod,
// agrees to the commit and removes the source. Each may be asked again for the same
// migration, also by a later daemon.
type Orchestrator interface {
	// MakePod has the cluster make the destination's pod, annotated with the
	// migration's id; it returns when that is asked for. Called once the destination
	// is prepared and the first copy, files included, is nearly done, or, if the request says that the
	// pod comes late, after the commit and before RemoveSource.
	MakePod(ctx context.Context, migration string) error
	// Await returns when the cluster is there to agree, with an error if it would not:
	// the pod is frozen after that, and should not be for a cluster that is away.
	Await(ctx context.Context, migration string) error
	// Quiet returns when all that has happened in the migration is written down, or is to be written by
	// Agree, with an error if it is not yet. The pod is about to be frozen, and each word has the API server,
	// its store and all who watch it work on processors that the cutover may want: but for Agree nothing is
	// written of it in the cluster from then on until the commit, or its end.
	Quiet(ctx context.Context, migration string) error
	// Agree records in the cluster that the migration may commit: from then on nobody but this node ends it. It
	// is asked right before the freeze, after Quiet and Await; for a pod that comes late when the destination
	// has voted, as it lets the cluster make that. An error means that the migration must be rolled back. It can still
	// fail, or be broken off, after it, which its end takes back.
	Agree(ctx context.Context, migration string) error
	// RemoveSource removes the source's pod; called after the commit, repeated until
	// it succeeds.
	RemoveSource(ctx context.Context, migration string) error
	// Lost takes down that the destination has lost the pod after the commit, and why: of
	// a migration that an earlier daemon began, of which no events tell. Called before
	// RemoveSource, repeated until it succeeds.
	Lost(ctx context.Context, migration string, why error) error
}

// agreeDeadline is what the cluster may take to agree. The node's other pods wait for their turn meanwhile; a pod that
// comes late is frozen, and its probes fail.
const agreeDeadline = 3 * time.Second

// quietLimit is how long a pod that runs, and its node's other pods that wait for their turn, are
// kept waiting for the cluster to have written down what happened.
const quietLimit = 3 * time.Second

// Orchestrated is a migration that Orchestrate began.
type Orchestrated struct{ m *outgoing }

// ID is what the migration is called.
func (o *Orchestrated) ID() string { return o.m.id }

// Events calls send for every event of the migration from its first on, of the
// progress between them for the newest only, and returns when the migration has
// ended, send fails, or ctx is over. The last event has the result.
func (o *Orchestrated) Events(ctx context.Context, send func(*nodev1.Event) error) error {
	return o.m.feed.each(ctx, send)
}

// Done is closed when the migration has ended and nothing is left to do for it here.
func (o *Orchestrated) Done() <-chan struct{} { return o.m.done }

// Migration is how the migration stands.
func (o *Orchestrated) Migration() *nodev1.Migration { return o.m.status() }

// Abort breaks the migration off, for a reason that wraps ErrCancelled if somebody
// asked for it. It does not wait for the end. It returns ErrCommitted if that is too
// late.
func (o *Orchestrated) Abort(why error) error { return o.m.abort(why) }

// Orchestrate begins a migration for a cluster: the pod at the destination is made
// by its kubelet, and what there is to decide and to remove is o's. The request's
// pod is namespace/name or the sandbox's id; its migration may be named. It is under
// way when Orchestrate returns, and lasts as long as the daemon, not as ctx.
func (d *Daemon) Orchestrate(ctx context.Context, req *nodev1.MigrateRequest, o Orchestrator) (*Orchestrated, error) {
	req = proto.Clone(req).(*nodev1.MigrateRequest)
	req.Kubelet = true
	m, err := d.migrate(ctx, req, o)
	if err != nil {
		return nil, err
	}
	return &Orchestrated{m}, nil
}

// SetRecoveredOrchestrator says who orchestrates the migrations of an earlier
// daemon. of may return nil for one that it does not know yet: it is asked again.
// Until then migrations that are committed wait with the removal of their source.
func (d *Daemon) SetRecoveredOrchestrator(of func(migration string) Orchestrator) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.orchestratorOf = of
	close(d.orchestratorSet)
	d.orchestratorSet = make(chan struct{})
}

// recoveredOrchestrator waits for the orchestrator of a record.
func (d *Daemon) recoveredOrchestrator(ctx context.Context, r record) (Orchestrator, error) {
	if r.Caller {
		return callersPod{d, r.Sandbox}, nil
	}
	for {
		d.mu.Lock()
		of, set := d.orchestratorOf, d.orchestratorSet
		d.mu.Unlock()
		var again <-chan time.Time
		if of != nil {
			if o := of(r.Migration); o != nil {
				return o, nil
			}
			again = time.After(askAgain)
		}
		select {
		case <-set:
		case <-again:
		case <-ctx.Done():
			return nil, fmt.Errorf("migration %s: the cluster's part in it is not known: %w", r.Migration, ctx.Err())
		}
	}
}

// recovered is the Orchestrator of a record: it waits for the real one only when
// something is asked of it, as most of what there is to recover needs none.
type recovered struct {
	d *Daemon
	r record
}

func (o recovered) MakePod(ctx context.Context, migration string) error {
	real, err := o.d.recoveredOrchestrator(ctx, o.r)
	if err != nil {
		return err
	}
	return real.MakePod(ctx, migration)
}

func (o recovered) Await(ctx context.Context, migration string) error {
	real, err := o.d.recoveredOrchestrator(ctx, o.r)
	if err != nil {
		return err
	}
	return real.Await(ctx, migration)
}

func (o recovered) Quiet(ctx context.Context, migration string) error {
	real, err := o.d.recoveredOrchestrator(ctx, o.r)
	if err != nil {
		return err
	}
	return real.Quiet(ctx, migration)
}

func (o recovered) Agree(ctx context.Context, migration string) error {
	real, err := o.d.recoveredOrchestrator(ctx, o.r)
	if err != nil {
		return err
	}
	return real.Agree(ctx, migration)
}

func (o recovered) RemoveSource(ctx context.Context, migration string) error {
	real, err := o.d.recoveredOrchestrator(ctx, o.r)
	if err != nil {
		return err
	}
	return real.RemoveSource(ctx, migration)
}

func (o recovered) Lost(ctx context.Context, migration string, why error) error {
	real, err := o.d.recoveredOrchestrator(ctx, o.r)
	if err != nil {
		return err
	}
	return real.Lost(ctx, migration, why)
}

// callersPod is the Orchestrator of a migration whose caller does all that by
// itself, as the events say.
type callersPod struct {
	d       *Daemon
	sandbox string
}

// MakePod leaves it to the caller.
func (callersPod) MakePod(context.Context, string) error { return nil }

// Await does not: a caller is there, or aborts.
func (callersPod) Await(context.Context, string) error { return nil }

// Quiet has nothing to wait for.
func (callersPod) Quiet(context.Context, string) error { return nil }

// Agree does: a caller that does not want the migration aborts it.
func (callersPod) Agree(context.Context, string) error { return nil }

// RemoveSource succeeds when the caller has removed the pod.
func (p callersPod) RemoveSource(ctx context.Context, _ string) error {
	pods, err := p.d.cri.Pods(ctx)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if pod.ID == p.sandbox && pod.Ready {
			return fmt.Errorf("pod %s has moved and is still here: remove it from the cluster", pod.FullName())
		}
	}
	return nil
}

// Lost leaves it to the log: nobody follows the events any more.
func (callersPod) Lost(context.Context, string, error) error { return nil }

// place has the cluster make the destination's pod when it is time to, waits for it
// there, and lets the shim send the rest of the files.
func (m *outgoing) place(ctx context.Context) error {
	select {
	case <-m.toPlace:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.tell("place", "asking the cluster for the pod on "+m.request.To)
	if err := m.orchestrator.MakePod(ctx, m.id); err != nil {
		return fmt.Errorf("the cluster does not make the pod on node %s: %w", m.request.To, err)
	}
	if err := m.create(ctx); err != nil {
		return err
	}
	if _, err := m.shim.SendFiles(ctx, &shimv1.SendFilesRequest{Migration: m.id}); err != nil {
		return fmt.Errorf("the pod's shim cannot send the files: %w", plain(err))
	}
	return nil
}

// toPlace says whether the destination's pod is to be made.
func toPlace(p *shimv1.Progress) bool {
	return p.PlacePod && p.State == shimv1.State_STATE_ROUNDS || p.State == shimv1.State_STATE_CONVERGED
}

// quiet has the cluster be quiet about the migration while the pod is frozen. One that is not
// only makes that longer.
func (m *outgoing) quiet(ctx context.Context) {
	if m.orchestrator == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, quietLimit)
	defer cancel()
	if err := m.orchestrator.Quiet(ctx, m.id); err != nil {
		m.log.Warn("the cluster still has to write down what happened, beside the cutover", "error", err)
	}
}

// agree has the cluster agree to the commit, at the one of its two moments that is the pod's: frozen says which this is.
// Nothing is decided by it: an error, or no answer in time, rolls back.
//
// A pod that is there at the destination runs on while the cluster is asked, and the frozen one waits for no API server. What
// happens to the migration from there to the decision, its cancellation or the end of the destination's pod, breaks it off as
// this node and the destination hear of it. A late pod's cluster acts on what it has agreed to: there the destination votes first.
func (m *outgoing) agree(frozen bool) error {
	if m.orchestrator == nil || frozen != m.request.LatePod {
		return nil
	}
	ctx, cancel := context.WithTimeout(m.undecided, agreeDeadline)
	defer cancel()
	return askToAgree(ctx, m.orchestrator, m.id, m.request.LatePod)
}

// askToAgree has a cluster agree to a migration's commit, with what must hold for that looked up before.
func askToAgree(ctx context.Context, o Orchestrator, migration string, late bool) error {
	var err error
	if !late { // of a late pod nothing is to be looked up
		err = o.Await(ctx, migration)
	}
	if err == nil {
		err = o.Agree(ctx, migration)
	}
	return agreed(err)
}

func agreed(err error) error {
	if err != nil {
		return fmt.Errorf("the cluster does not agree to the commit: %w", err)
	}
	return nil
}

// bury sees that nothing of a source whose shim is dead runs again. errDisagreed is
// wrapped if the cluster will not have it.
func (d *Daemon) bury(ctx context.Context, r record, o Orchestrator) error {
	if !r.Kubelet {
		return d.cri.Remove(ctx, r.Sandbox)
	}
	if r, ok := o.(recovered); ok { // it has no deadline to be known
		var err error
		if o, err = d.recoveredOrchestrator(ctx, r.r); err != nil {
			return err
		}
	}
	// kubelet starts the pod again as soon as it sees that it is dead.
	actx, cancel := context.WithTimeout(ctx, agreeDeadline)
	defer cancel()
	if err := askToAgree(actx, o, r.Migration, r.LatePod); err != nil {
		return fmt.Errorf("%w: %w", errDisagreed, err)
	}
	if r.LatePod {
		if err := o.MakePod(ctx, r.Migration); err != nil {
			return err
		}
	}
	if err := o.RemoveSource(ctx, r.Migration); err != nil {
		return err
	}
	if err := d.cri.Remove(ctx, r.Sandbox); err != nil {
		return err
	}
	pods, err := d.cri.Pods(ctx)
	if err != nil {
		return err
	}
	for _, p := range pods {
		if p.FullName() == r.Pod && p.Ready {
			return fmt.Errorf("kubelet still runs pod %s: %w", r.Pod, errBusy)
		}
	}
	return nil
}

// errDisagreed: the cluster does not want the destination's copy.
var errDisagreed = errors.New("not the destination's pod")
