package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"godwit.dev/godwit/nodecontroller"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/pagestream/track"
)

// migrateFlags are flags whose units are friendlier than the request's.
type migrateFlags struct {
	maxTime, timeout      time.Duration
	downtimeLimit         time.Duration
	reconnect             time.Duration
	dirtyLimit, bandwidth amount
}

// amount is a flag of bytes: 16MiB.
type amount uint64

func (a *amount) Set(s string) error {
	n, err := nodecontroller.ParseBytes(s)
	*a = amount(n)
	return err
}

func (a *amount) String() string { return Size(uint64(*a)) }
func (*amount) Type() string     { return "bytes" }

func newMigrate(a *app) *cobra.Command {
	req := new(nodev1.MigrateRequest)
	var f migrateFlags
	cmd := &cobra.Command{
		Use:   "migrate POD --to NODE",
		Short: "Move a running pod of this node to another",
		Long: `POD is namespace/name, a name, or the beginning of the sandbox's id.

Ctrl-C breaks the migration off and waits until the pod runs on here and the other
node is clean; a second Ctrl-C leaves at once, and the migration to the daemon.
Memory is copied while the pod runs, and what it writes meanwhile is found by a tracker
and copied again. --tracker auto takes write-protect, which never stops the pod, where
the kernel has it, else soft-dirty, which stops it for a moment in each round, else none:
the pod is frozen first and copied then, which is what --mode cold asks for.

With --json each event is an object on a line of its own; the last has the result.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := track.ParseEngine(req.Tracker); err != nil {
				return fmt.Errorf("--tracker: %w", err)
			}
			if _, err := precopy.ParseRule(req.Rule); err != nil {
				return fmt.Errorf("--rule: %w", err)
			}
			if _, err := precopy.ParseOnStall(req.OnStall); err != nil {
				return fmt.Errorf("--on-stall: %w", err)
			}
			req.Pod = args[0]
			req.DowntimeLimitMs = uint64(f.downtimeLimit.Milliseconds())
			req.MaxTimeMs = uint64(f.maxTime.Milliseconds())
			req.ReconnectMs = uint64(f.reconnect.Milliseconds())
			req.TimeoutMs = uint64(f.timeout.Milliseconds())
			req.DirtyLimit, req.Bandwidth = uint64(f.dirtyLimit), uint64(f.bandwidth)
			return a.call(func(c nodev1.NodeClient) error {
				return migrate(cmd.Context(), c, req, a.view(cmd.OutOrStdout()))
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.To, "to", "", "the node to move to")
	flags.StringVar(&req.Mode, "mode", "", "live (the default); cold: freeze first, then copy, the same as --tracker none; hybrid: as live, and what is dirty then is fetched after the move; postcopy: everything is")
	flags.StringVar(&req.Tracker, "tracker", "auto", "what finds the memory that the pod writes: auto, write-protect, soft-dirty or none")
	flags.Uint32Var(&req.MaxRounds, "max-rounds", 0, "rounds after the first full copy at most (0: the default)")
	flags.DurationVar(&f.maxTime, "max-time", 0, "time for all rounds at most (0: the default)")
	flags.Var(&f.dirtyLimit, "dirty-limit", "freeze when less memory than this is dirty (0: the default)")
	flags.StringVar(&req.Rule, "rule", "default", "what ends the rounds: default, by the downtime predicted, or s0, by dirty rates predicted")
	flags.DurationVar(&f.downtimeLimit, "downtime-limit", 0, "the predicted downtime that is short enough (0: 300ms)")
	flags.Uint32Var(&req.FirstRounds, "first-rounds", 0, "rounds that s0 does before it judges (0: the default)")
	flags.StringVar(&req.OnStall, "on-stall", "StopAndCopy", "if the downtime would be longer than the limit: StopAndCopy; Abort, and the pod runs on here; Throttle, hold its processors back until it is not; or PostCopy, to go on as --mode hybrid")
	flags.DurationVar(&f.reconnect, "reconnect-timeout", 0, "how long the nodes wait for each other while pages are missing after the move, until the pod is lost (0: 2m)")
	flags.DurationVar(&f.timeout, "timeout", 0, "give up if not committed after this (0: 30m)")
	flags.Uint32Var(&req.Streams, "streams", 0, "parallel streams (0: the default)")
	flags.StringVar(&req.Compression, "compression", "auto", "auto, none, lz4 or zstd")
	flags.BoolVar(&req.WholePages, "whole-pages", false, "send pages whole, however little changed in them since they were sent")
	flags.BoolVar(&req.CompareDump, "compare-dump", false, "for who looks for a fault: have CRIU dump the frozen pod by itself as well, and compare the other node's memory with that, page by page, before it runs there; the pod stands still for much longer")
	flags.Var(&f.bandwidth, "bandwidth", "bytes a second at most (0: no limit)")
	flags.Int32Var(&req.Priority, "priority", 0, "if more pods are to leave the node than may at a time, the higher goes first")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// view shows the events of a migration.
type view interface {
	event(*nodev1.Event)
	// close ends the display; the result, if there is one, is shown.
	close(*nodev1.Event)
}

// view is a bar on a terminal, lines elsewhere, and JSON where that is asked for.
func (a *app) view(w io.Writer) view {
	if a.json {
		return &jsonView{w}
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return newBarView(f)
	}
	return &lineView{w: w}
}

// migrate runs one migration, breaking it off at the first interrupt and leaving
// it to the daemon at the second.
func migrate(ctx context.Context, c nodev1.NodeClient, req *nodev1.MigrateRequest, v view) error {
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Migrate(ctx, req)
	if err != nil {
		return failure(err)
	}
	events := make(chan *nodev1.Event)
	var streamErr error
	go func() {
		defer close(events)
		for {
			e, err := stream.Recv()
			if err != nil {
				streamErr = err
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return follow(ctx, c, events, interrupts, &streamErr, v)
}

// follow shows events until the last one, and acts upon interrupts. streamErr is
// set before events is closed.
func follow(ctx context.Context, c nodev1.NodeClient, events <-chan *nodev1.Event, interrupts <-chan os.Signal, streamErr *error, v view) error {
	var last *nodev1.Event
	asked := false
	for {
		select {
		case e, ok := <-events:
			if !ok {
				v.close(last)
				return ended(last, *streamErr)
			}
			last = e
			v.event(e)
		case <-interrupts:
			if asked || last == nil {
				v.close(nil)
				return &exitError{ExitLeft, errors.New("left; the migration goes on in the daemon: see godwitctl status")}
			}
			asked = true
			id := last.Migration
			go func() {
				// Its answer is seen in the events.
				_, _ = c.Abort(ctx, &nodev1.AbortRequest{Migration: id, Reason: "interrupted"})
			}()
		}
	}
}

// ended is what the command ends with.
func ended(last *nodev1.Event, streamErr error) error {
	switch {
	case last == nil:
		return failure(streamErr)
	case last.Result == nil:
		return &exitError{ExitFailure, fmt.Errorf("the daemon went away: %w; see godwitctl status %s", streamErr, last.Migration)}
	case last.Result.Succeeded:
		return nil
	}
	code := ExitFailed
	switch last.Phase {
	case nodev1.Phase_PHASE_CANCELLED:
		code = ExitCancelled
	case nodev1.Phase_PHASE_MIGRATION_COMPLETE:
		code = ExitCommitted
	}
	return &exitError{code, errors.New(last.Result.Error)}
}

// jsonView prints one object for each event.
type jsonView struct{ w io.Writer }

func (v *jsonView) event(e *nodev1.Event) { _ = PrintJSON(v.w, eventJSON(e)) }

func (v *jsonView) close(last *nodev1.Event) {
	if last != nil && last.Result != nil {
		_ = PrintJSON(v.w, resultJSON(last.Migration, last.Phase, last.Result))
	}
}
