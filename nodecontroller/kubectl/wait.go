package kubectl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cli"
)

// untaken is how long a migration may be without a phase before that is remarked
// upon: godwit-controller says more, and sooner.
const untaken = 15 * time.Second

// lastFigures is how long a migration that is over is looked at for its figures,
// which may be written a moment after its phase.
const lastFigures = 5 * time.Second

// wait shows a migration until its end, cancelling it at the first interrupt and
// leaving it to the cluster at the second.
func (c *cluster) wait(ctx context.Context, m *v1alpha1.PodMigration, v view) error {
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)

	ctx, cancel := context.WithCancel(ctx)
	f := follower{
		updates:    make(chan *v1alpha1.PodMigration),
		notes:      make(chan string),
		interrupts: interrupts,
		cancel:     func() error { return c.cancel(ctx, m) },
		view:       v,
	}
	nobody := time.NewTimer(untaken)
	defer nobody.Stop()
	f.untaken = nobody.C
	f.late = func() <-chan time.Time { return time.After(lastFigures) }
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(f.updates)
		f.err = c.updates(ctx, m,
			func(m *v1alpha1.PodMigration) {
				select {
				case f.updates <- m:
				case <-ctx.Done():
				}
			},
			func(err error) { f.note(ctx, fmt.Sprintf("the API server fails, asking it again: %v", err)) })
	}()
	err := f.follow(ctx, m)
	cancel()
	<-done
	return err
}

// follower is one wait.
type follower struct {
	updates    chan *v1alpha1.PodMigration // closed at their end, after err is set
	err        error
	notes      chan string
	interrupts <-chan os.Signal
	untaken    <-chan time.Time
	late       func() <-chan time.Time // when figures are waited for no more
	cancel     func() error
	view       view
}

// note is called by who is not follow.
func (f *follower) note(ctx context.Context, text string) {
	select {
	case f.notes <- text:
	case <-ctx.Done():
	}
}

// follow shows what happens until the migration is over, and acts upon
// interrupts.
func (f *follower) follow(ctx context.Context, last *v1alpha1.PodMigration) error {
	asked := false
	var late <-chan time.Time
	for {
		select {
		case m, ok := <-f.updates:
			if !ok {
				f.view.close(nil)
				return lost(last, f.err)
			}
			last = m
			f.view.show(m)
			if m.Status.Phase.Over() && m.Status.CompletionTime != nil {
				f.view.close(m)
				return outcome(m)
			}
			if m.Status.Phase.Over() && late == nil {
				late = f.late()
			}
		case <-late:
			f.view.close(last)
			return outcome(last)
		case text := <-f.notes:
			f.view.note(text)
		case <-f.untaken:
			if last.Status.Phase == "" {
				f.view.note("no node has taken it up yet, and godwit-controller does not say why: see with kubectl godwit check whether godwit-node runs on the pod's node")
			}
		case <-f.interrupts:
			if asked {
				f.view.close(nil)
				return cli.Exit(cli.ExitLeft, fmt.Errorf("left; the migration goes on: see kubectl godwit describe %s -n %s", last.Name, last.Namespace))
			}
			asked = true
			f.view.note("cancelling; once more to leave it")
			go func() { // what comes of it is seen in the updates
				if err := f.cancel(); err != nil {
					f.note(ctx, err.Error())
				}
			}()
		}
	}
}

// outcome is what the command ends with when the migration is over.
func outcome(m *v1alpha1.PodMigration) error {
	switch m.Status.Phase {
	case v1alpha1.PhaseSucceeded:
		return nil
	case v1alpha1.PhaseCancelled:
		return cli.Exit(cli.ExitCancelled, fmt.Errorf("cancelled; pod %s runs on: %s", m.Spec.PodName, m.Status.Message))
	}
	return cli.Exit(cli.ExitFailed, fmt.Errorf("failed: %s", m.Status.Message))
}

// lost is what the command ends with when it cannot see any more what happens.
func lost(last *v1alpha1.PodMigration, err error) error {
	if errors.Is(err, errDeleted) {
		return cli.Exit(cli.ExitFailure, fmt.Errorf("PodMigration %s was deleted; when it was last seen it was %s", last.Name, phase(last)))
	}
	return failure("PodMigration "+last.Name, err)
}

// phase of a migration, also of one that no node has seen.
func phase(m *v1alpha1.PodMigration) string {
	if m.Status.Phase == "" {
		return "new"
	}
	return string(m.Status.Phase)
}

// cancel asks for a migration to be broken off.
func (c *cluster) cancel(ctx context.Context, m *v1alpha1.PodMigration) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"cancel": true}})
	if err != nil {
		return fmt.Errorf("cancelling: %w", err)
	}
	return failure("cancelling PodMigration "+m.Name, c.Patch(ctx, m.DeepCopy(), client.RawPatch(types.MergePatchType, patch)))
}
