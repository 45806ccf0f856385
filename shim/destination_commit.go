package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"godwit.dev/godwit/shim/criu"
)

// resume lets all held containers run, and returns when the last of them did. It is
// the destination's side of the commit and may be asked again: it says that the pod
// runs only when every container does.
func (d *destination) resume(ctx context.Context) (time.Time, error) {
	defer d.releaseCollector(collectorCalm)
	all, first, err := d.release()
	if err != nil {
		return time.Time{}, err
	}
	if first {
		g := newGate(len(all))
		for _, a := range all {
			t := d.latest(a)
			if err := t.restore.Answer(criu.Go); err != nil {
				d.log.Error("CRIU cannot be told to go on", "container", a.container.id, "error", err)
			}
			go d.letGo(a, t, g)
		}
	}
	for _, a := range all {
		select {
		case <-a.started:
		case <-ctx.Done():
			return time.Time{}, errors.Join(fmt.Errorf("wait for resumed containers: %w", ctx.Err()), d.trouble())
		}
		d.latest(a).restore.Close()
	}
	return d.allRan(all)
}

// allRan returns when the last of the pod's containers began to run.
func (d *destination) allRan(all []*arrival) (last time.Time, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range all {
		if a.ran.IsZero() {
			err = errors.Join(err, context.Cause(a.ended))
		}
		if a.ran.After(last) {
			last = a.ran
		}
	}
	return last, err
}

// trouble is what has gone wrong with restores since the commit; nil if nothing has.
func (d *destination) trouble() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.troubleLocked()
}

// troubleLocked is trouble with mu held.
func (d *destination) troubleLocked() (err error) {
	for _, a := range d.arrivals {
		err = errors.Join(err, a.trouble)
	}
	return err
}

// release marks all held containers as committed, in one step: either all of the
// pod is to run or none of it. It returns them, and whether it did so now.
func (d *destination) release() (all []*arrival, first bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first = d.resumed.IsZero()
	for id, a := range d.arrivals {
		if first && a.state != arrivalHeld {
			return nil, false, fmt.Errorf("container %s is %v, not held", id, a.state)
		}
		if a.attempt != nil {
			all = append(all, a)
		}
	}
	if !first {
		return all, false, nil
	}
	for _, a := range all {
		if err := d.moveLocked(a, arrivalCommitted); err != nil {
			return nil, false, err
		}
		a.attempt.seen.Add(1)
	}
	d.resumed = time.Now()
	return all, true, nil
}
