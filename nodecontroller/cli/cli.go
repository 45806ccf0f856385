package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/status"

	"godwit.dev/godwit/nodecontroller"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// Exit codes of godwitctl.
const (
	ExitOK        = 0
	ExitFailure   = 1   // anything not below
	ExitUsage     = 2   // the command line is wrong
	ExitRefused   = 3   // nothing was begun: no such pod, or it cannot be moved there
	ExitFailed    = 4   // the migration failed before its commit: the pod runs on the source
	ExitCancelled = 5   // the migration was cancelled: the pod runs on the source
	ExitCommitted = 6   // the pod is the destination's, and what follows the commit failed
	ExitMissing   = 7   // check: something that a migration needs is missing
	ExitLeft      = 130 // interrupted twice: the migration was left to the daemon
)

// exitError is an error with the code that it ends the command with.
type exitError struct {
	code int
	err  error // nil if everything was said already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Exit is err with the code that it ends a command with. err is nil if everything
// was said already.
func Exit(code int, err error) error { return &exitError{code, err} }

// Finish says what a command failed of, if it did, and returns its exit code.
func Finish(program string, err error) int {
	if err == nil {
		return ExitOK
	}
	code := ExitUsage
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(os.Stderr, "%s: %s\n", program, text)
	}
	return code
}

// Run runs godwitctl and returns its exit code.
func Run(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	return Finish("godwitctl", root.ExecuteContext(context.Background()))
}

// app is what the commands share.
type app struct {
	socket string
	json   bool
}

func newRoot() *cobra.Command {
	a := new(app)
	root := &cobra.Command{
		Use:   "godwitctl",
		Short: "Moves running pods between nodes",
		Long: `godwitctl asks the node daemon of this node: run it on the node that has the pod.

Exit codes: 0 success, 1 failure, 2 wrong command line, 3 refused (nothing was begun),
4 failed and 5 cancelled (the pod runs on the source), 6 committed, but not finished,
7 check found something missing, 130 left while the migration goes on.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", nodev1.Socket, "the node daemon's socket")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(
		newCheck(a), newPods(a), newMigrate(a), newStatus(a), newAbort(a), newResolve(a), newPKI(), newVersion(a),
	)
	return root
}

// call connects to the daemon for one command.
func (a *app) call(do func(nodev1.NodeClient) error) error {
	conn, err := net.DialTimeout("unix", a.socket, 5*time.Second)
	if err != nil {
		return &exitError{ExitFailure, fmt.Errorf("node daemon: %w: is godwit-node running, and are you root?", err)}
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	return do(nodev1.NewNodeClient(client))
}

// failure gives a daemon's refusal its text and code.
func failure(err error) error {
	if err == nil {
		return nil
	}
	code := ExitFailure
	native := errgrpc.ToNative(err)
	if errdefs.IsNotFound(native) || errdefs.IsFailedPrecondition(native) || errdefs.IsInvalidArgument(native) {
		code = ExitRefused
	}
	if s, ok := status.FromError(err); ok {
		err = errors.New(s.Message())
	}
	return &exitError{code, err}
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.json {
				return PrintJSON(cmd.OutOrStdout(), map[string]string{"version": nodecontroller.Version})
			}
			fmt.Fprintln(cmd.OutOrStdout(), nodecontroller.Version)
			return nil
		},
	}
}
