package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"

	shimv1 "godwit.dev/godwit/shim/api/v1"
	"godwit.dev/godwit/shim/criu"
)

// startFunc is the stock service's Start of one container.
type startFunc func(context.Context) (*taskAPI.StartResponse, error)

// errAborted fails the starts of a migration that was called off.
var errAborted = errors.New("the migration was aborted")

// destination is the receiving side of a migration in the new pod's shim.
type destination struct {
	id  string
	log *slog.Logger
	// placeholder is the process that stands for an answered container.
	placeholder func() uint32
	// monitor runs the restores.
	monitor *restoreMonitor

	mu       sync.Mutex
	arrivals map[string]*arrival // by container id, guarded by mu
	aborted  bool                // guarded by mu
	resumed  time.Time           // guarded by mu; zero before the commit
	collects func()              // has garbage collected again; nil if it is; guarded by mu
	lost     error               // pages of a container are missing for good, and it was killed; guarded by mu

	changed *broadcast
}

func newDestination(id string, placeholder func() uint32, monitor *restoreMonitor, log *slog.Logger) *destination {
	return &destination{
		id: id, placeholder: placeholder, monitor: monitor, log: log.With("migration", id),
		arrivals: map[string]*arrival{}, changed: newBroadcast(),
	}
}

// arrival returns the record of a container, making it if the start has not
// come yet.
func (d *destination) arrival(id string) *arrival {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.arrivals[id]
	if !ok {
		a = newArrival()
		d.arrivals[id] = a
	}
	return a
}

// move takes a container from one state to the next.
func (d *destination) move(a *arrival, to arrivalState) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.moveLocked(a, to)
}

// moveLocked is move with mu held.
func (d *destination) moveLocked(a *arrival, to arrivalState) error {
	if d.aborted && to != arrivalEnded {
		return errAborted
	}
	for _, legal := range arrivalMoves[a.state] {
		if legal == to {
			a.state = to
			d.changed.signal()
			return nil
		}
	}
	return fmt.Errorf("container is %v, it can not become %v", a.state, to)
}

// start parks a container's start until it is ordered to restore, and returns
// what the stock start returns: after the commit, or with an error. A start that is
// answered early returns when it is parked, and goes on by itself: abort, abandon
// and resume wait for its end.
func (d *destination) start(ctx context.Context, c *container, run startFunc) (*taskAPI.StartResponse, error) {
	a := d.arrival(c.id)
	if err := d.park(a, c); err != nil {
		return d.started(a, nil, err)
	}
	if a.answeredBy == 0 {
		resp, err := d.parkAndRun(ctx, a, run)
		return d.started(a, resp, err)
	}
	go func() {
		resp, err := d.parkAndRun(context.WithoutCancel(ctx), a, run)
		if _, err := d.started(a, resp, err); err != nil {
			d.log.Error("a container whose start was answered does not run", "container", c.id, "error", err)
		}
	}()
	return &taskAPI.StartResponse{Pid: a.answeredBy}, nil
}

// park notes that a container's start has come.
func (d *destination) park(a *arrival, c *container) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	a.container = c
	if d.early(c) {
		a.answeredBy = d.placeholder()
	}
	if err := d.moveLocked(a, arrivalParked); err != nil {
		return err
	}
	close(a.parked)
	d.log.Info("container parked", "container", c.id, "answered", a.answeredBy != 0)
	return nil
}

// started notes how the start of a container ended. If it failed it returns when who abandons the container has cleared it
// away: containerd removes the bundle then, which says where.
func (d *destination) started(a *arrival, resp *taskAPI.StartResponse, err error) (*taskAPI.StartResponse, error) {
	if err == nil {
		close(a.started)
		return resp, nil
	}
	a.failedAt = time.Now()
	close(a.failed)
	close(a.started)
	d.mu.Lock()
	clearing := a.clearing
	d.mu.Unlock()
	if clearing != nil {
		<-clearing
	}
	return nil, fmt.Errorf("migration %s: %w", d.id, err)
}

// parkAndRun is the start of a parked container without its end. When the restore is
// ordered, the end of ctx breaks it off before the commit only.
func (d *destination) parkAndRun(ctx context.Context, a *arrival, run startFunc) (*taskAPI.StartResponse, error) {
	// Started now, while nobody waits; what fails, prepare says.
	fill, _ := d.startFill(ctx, a)
	var in sharedNamespaces
	select {
	case <-a.order:
	case <-a.ahead:
		in = a.container.shared
	case <-a.ended.Done():
		fill.stop()
		return nil, context.Cause(a.ended)
	case <-ctx.Done():
		d.finish(a, ctx.Err())
		fill.stop()
		return nil, fmt.Errorf("wait to be restored: %w", ctx.Err())
	}
	show := func(cmd *exec.Cmd) error {
		cmd.Env = criu.RestoreEnvironment(cmd.Environ(), a.container.criuConfig())
		t := d.latest(a)
		return runShown(cmd, in, t.restore.OwnYard(), t.tmpfs)
	}
	defer d.monitor.supervise(a.container.id, show, func(failure error) bool { return d.restoreEnded(a, failure) })()
	defer context.AfterFunc(ctx, func() { d.abandonUncommitted(a, ctx.Err()) })()
	resp, err := run(context.WithoutCancel(ctx))
	closeNames(a.names)
	if err != nil {
		t := d.latest(a)
		t.end(err) // if runc was never started
		t.release()
		err = t.restore.WithLog(err)
		d.finish(a, err)
		a.end(err) // if it was moved to its end without
	}
	return resp, err
}

// latest is the latest attempt at a container, which there is from the order on.
func (d *destination) latest(a *arrival) *attempt {
	d.mu.Lock()
	defer d.mu.Unlock()
	return a.attempt
}

// startFill starts the fault server of a parked container, once. Whoever waits
// for the order to restore stops it if that never comes.
func (d *destination) startFill(ctx context.Context, a *arrival) (*fill, error) {
	a.filling.Do(func() {
		f, err := d.newFill(ctx, a)
		d.mu.Lock()
		defer d.mu.Unlock()
		a.fill, a.fillErr = f, err
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	return a.fill, a.fillErr
}

// newFill starts a fault server for a container.
func (d *destination) newFill(ctx context.Context, a *arrival) (*fill, error) {
	work, err := restoreWorkDir(a.container)
	if err != nil {
		return nil, err
	}
	return startFill(ctx, d.log, fillConfig{
		work: work, changed: d.changed.signal, lost: func(err error) { d.memoryLost(a, err) },
	})
}

// finish ends a container's arrival.
func (d *destination) finish(a *arrival, cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endLocked(a, cause)
}

// endLocked is finish with mu held.
func (d *destination) endLocked(a *arrival, cause error) {
	if d.moveLocked(a, arrivalEnded) == nil {
		a.end(cause)
	}
}

// waitParked returns the root file system of a container whose start is parked.
func (d *destination) waitParked(ctx context.Context, id string) (string, error) {
	a := d.arrival(id)
	select {
	case <-a.parked:
		return a.container.rootfs(), nil
	case <-a.ended.Done():
		return "", context.Cause(a.ended)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// restoreContainer restores a parked container and returns when it is held.
func (d *destination) restoreContainer(ctx context.Context, r *shimv1.RestoreRequest) error {
	d.holdCollector()
	a := d.arrival(r.GetContainer())
	if err := d.restoreEarly(ctx, a, r); !errors.Is(err, errNotEarly) {
		return err
	}
	if err := d.move(a, arrivalRestoring); err != nil {
		return err
	}
	a.request = r
	var err error
	if a.names, err = keepNames(a.container, r.GetImagesDir()); err != nil {
		d.log.Warn("a restore of the container cannot be done again", "container", a.container.id, "error", err)
	}
	t, err := d.equipFirst(ctx, a)
	if err != nil {
		closeNames(a.names)
		d.finish(a, err)
		return err
	}
	close(a.order)
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(a.ended, func() { cancel(context.Cause(a.ended)) })
	defer stop()
	pid, err := t.restore.Held(both)
	if err != nil {
		d.abandon(a, err)
		return err
	}
	return d.hold(a, pid)
}

// hold notes that a container is held, and where its processes are. What the pod wants first is put in place when it is the last: before
// that, processors have containers to restore.
func (d *destination) hold(a *arrival, criuPID int) error {
	cgroup, err := cgroupOf(a.container.id, criuPID)
	if err != nil {
		d.log.Warn("a restore that hangs cannot be ended by its cgroup", "container", a.container.id, "error", err)
	}
	var made sysvObjects
	if hasSysV(a.request.GetImagesDir()) {
		// Nobody but CRIU has made any yet.
		if made, err = listSysV(int(d.placeholder())); err != nil {
			d.log.Warn("a restore of the container cannot be done again", "container", a.container.id, "error", err)
		}
	}
	d.mu.Lock()
	a.cgroup, a.made = cgroup, made
	err = d.moveLocked(a, arrivalHeld)
	all := d.heldLocked()
	d.mu.Unlock()
	for _, f := range all {
		f.made()
	}
	return err
}

// heldLocked are the fills of the pod's containers if all of them are held, else none. mu is held.
func (d *destination) heldLocked() []*fill {
	var all []*fill
	for _, a := range d.arrivals {
		if a.state != arrivalHeld {
			return nil
		}
		all = append(all, a.fill)
	}
	return all
}

// containers is how many containers of the pod have come, 1 at least.
func (d *destination) containers() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(1, len(d.arrivals))
}

// committed says whether the pod was let run here.
func (d *destination) committed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.resumed.IsZero()
}

// over says whether a new migration may begin.
func (d *destination) over() bool {
	switch d.progress().GetState() {
	case shimv1.State_STATE_ABORTED, shimv1.State_STATE_FILLED:
		return true
	}
	return false
}

// progress sums up all containers.
func (d *destination) progress() *shimv1.Progress {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &shimv1.Progress{State: shimv1.State_STATE_PARKED}
	if d.aborted {
		p.State = shimv1.State_STATE_ABORTED
		return p
	}
	filled, held := true, len(d.arrivals) > 0
	for _, a := range d.arrivals {
		if cause := context.Cause(a.ended); cause != nil && p.Error == "" {
			p.Error = cause.Error()
		}
		if a.state == arrivalRestoring {
			p.State = shimv1.State_STATE_RESTORING
		}
		held = held && a.state == arrivalHeld
		filled = filled && a.state != arrivalCommitted && a.state != arrivalRepeating
		if a.fill != nil {
			s := a.fill.stats()
			p.FilledPages += s.filled
			p.FillPages += s.total
			p.Faults += s.faults
			p.MissingPages += s.missing
			p.RemoteFaults += s.remote
			p.Fetching = p.Fetching || s.missing > 0
			if s.lost != nil {
				p.Lost = s.lost.Error()
			}
			filled = filled && s.done
		}
	}
	if d.lost != nil {
		p.Lost = d.lost.Error()
	}
	if err := d.troubleLocked(); err != nil {
		p.Trouble = err.Error()
	}
	switch {
	case !d.resumed.IsZero() && filled:
		p.State = shimv1.State_STATE_FILLED
	case !d.resumed.IsZero():
		p.State = shimv1.State_STATE_FILLING
	case held:
		p.State = shimv1.State_STATE_HELD
	}
	return p
}
