// Command godwit-lab brings up nodes on one machine, for Godwit's tests and for whoever wants to try it; see test/lab.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	err := newRoot().ExecuteContext(ctx)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return
	case errors.As(err, &exit) && errors.Is(err, errCommand):
		os.Exit(max(1, exit.ExitCode())) // the command has said what was wrong
	}
	fmt.Fprintln(os.Stderr, "godwit-lab:", err)
	os.Exit(1)
}

// logger writes what happens for a person: the time is of no use to one, the level only if it is not the usual.
func logger() *slog.Logger {
	start := time.Now()
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case len(groups) > 0:
		case a.Key == slog.TimeKey:
			return slog.Duration("t", time.Since(start).Truncate(10*time.Millisecond))
		case a.Key == slog.LevelKey && a.Value.Any() == slog.LevelInfo:
			return slog.Attr{}
		}
		return a
	}}))
}
