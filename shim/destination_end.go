package shim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/lazy"
	"godwit.dev/godwit/shim/criu"
)

// abort ends the migration before its commit: parked starts fail, held
// processes are killed without having run.
func (d *destination) abort(reason string) error {
	d.mu.Lock()
	if !d.resumed.IsZero() {
		d.mu.Unlock()
		return errors.New("the pod runs here already")
	}
	d.aborted = true
	var all []*arrival
	for _, a := range d.arrivals {
		all = append(all, a)
	}
	d.mu.Unlock()
	for _, a := range all {
		d.abandon(a, fmt.Errorf("%w: %s", errAborted, reason))
	}
	d.releaseCollector(0)
	d.changed.signal()
	return nil
}

// abandonUncommitted is abandon if there has been no commit.
func (d *destination) abandonUncommitted(a *arrival, cause error) {
	if !d.committed() {
		d.abandon(a, cause)
	}
}

// stopLimit is how long CRIU may take to undo a restore that it holds.
const stopLimit = 5 * time.Second

// abandon ends one container that does not run, whatever it is doing, and returns when nothing of it is left.
func (d *destination) abandon(a *arrival, cause error) {
	d.mu.Lock()
	state := a.state
	if state == arrivalRunning || state == arrivalEnded {
		clearing := a.clearing
		d.mu.Unlock()
		if clearing != nil {
			<-clearing
		}
		return
	}
	d.endLocked(a, cause)
	t := a.attempt
	if t == nil {
		d.mu.Unlock()
		return
	}
	clearing := make(chan struct{})
	defer close(clearing)
	a.clearing = clearing
	d.mu.Unlock()
	switch state {
	case arrivalHeld:
		t.restore.Answer(criu.Stop)
		defer time.AfterFunc(stopLimit, func() { d.killAttempt(a) }).Stop()
	case arrivalReady, arrivalRestoring, arrivalCommitted:
		d.killToEnd(a, nil)
	}
	<-a.started
	t.seen.Wait()
	t.early.close()
	t = d.latest(a) // a start that was being repeated may have begun another
	t.release()
	t.restore.Close()
	t.restore.ClearRoots()
	t.fill.stop()
	if runc, err := a.container.runtime(); err == nil {
		if err := clearRestoreRoot(runc.Root, a.container.id); err != nil {
			d.log.Warn("a restore is not cleared away", "container", a.container.id, "error", err)
		}
		clearCgroups(a.container.bundle)
	}
}

// killAgain is the time between two looks for a restore that is to be killed.
const killAgain = 100 * time.Millisecond

// killToEnd kills the restore of a container until its start has ended, or cleared is closed: runc may be about to be started.
func (d *destination) killToEnd(a *arrival, cleared <-chan struct{}) {
	for {
		d.killAttempt(a)
		select {
		case <-a.started:
			return
		case <-cleared:
			return
		case <-time.After(killAgain):
		}
	}
}

// memoryLost is told that the fault server of a container cannot go on. A running
// container is killed: it must not go on with zeros where its data was. One that does
// not run yet has lost its CRIU, or needs another fault server, and with it another
// restore.
func (d *destination) memoryLost(a *arrival, cause error) {
	d.mu.Lock()
	state := a.state
	if state == arrivalCommitted {
		a.attempt.end(cause) // before anybody lets it go
	}
	// Kept here: whoever sees the container end may delete it, and its arrival, before anybody asks.
	if errors.Is(cause, lazy.ErrSourceLost) && state == arrivalRunning {
		d.lost = cause
	}
	d.mu.Unlock()
	switch state {
	case arrivalHeld:
		go d.abandon(a, cause) // which waits for who calls; the start waits for it
	case arrivalRunning:
		d.log.Error("container is killed: its memory is lost", "container", a.container.id, "error", cause)
		if pid, err := a.container.pid(); err == nil {
			unix.Kill(pid, unix.SIGKILL)
		}
		d.finish(a, cause)
	}
}

// find returns the arrival of a container, if it is one.
func (d *destination) find(id string) (*arrival, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.arrivals[id]
	return a, ok
}

// cancel ends the wait of a container that does not run yet; it returns when no
// process of it is left.
func (d *destination) cancel(id string, cause error) {
	d.mu.Lock()
	a, ok := d.arrivals[id]
	waiting := ok && a.container != nil && a.state != arrivalRunning
	d.mu.Unlock()
	if !waiting {
		return
	}
	d.abandon(a, cause)
	if a.ended.Err() != nil { // else it came to run just now
		<-a.started
	}
}

// cancelAll is cancel for all containers: their sandbox is being killed.
func (d *destination) cancelAll(cause error) {
	d.mu.Lock()
	ids := slices.Collect(maps.Keys(d.arrivals))
	d.mu.Unlock()
	for _, id := range ids {
		d.cancel(id, cause)
	}
}

// forget drops a deleted container.
func (d *destination) forget(id string) {
	d.mu.Lock()
	a, ok := d.arrivals[id]
	delete(d.arrivals, id)
	d.mu.Unlock()
	if ok && a.fill != nil {
		a.fill.stop()
	}
	d.changed.signal()
}
