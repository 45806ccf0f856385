package nodecontroller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"godwit.dev/godwit/cri"
)

// StartCommand is the daemon's own command that starts one container and waits
// until it runs: StartCommand SOCKET CONTAINER.
const StartCommand = "start-container"

// starts are the starts of a destination's containers, which last from the
// parking to the resume.
type starts struct {
	waits []func() error // one for each container, returns when its start has ended
	ended sync.WaitGroup
}

// startProcesses begins the starts. Each is a process of its own, in a session
// of its own: containerd undoes a start whose caller goes away, and a daemon
// that restarts between the vote and the commit would take the pod with it.
func startProcesses(socket string, containers []string) (*starts, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start containers: %w", err)
	}
	s := new(starts)
	for _, id := range containers {
		out := new(bytes.Buffer)
		cmd := exec.Command(self, StartCommand, socket, id)
		cmd.Stderr = out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			// Those that did begin end when the sandbox is removed.
			return s, fmt.Errorf("start container %.12s: %w", id, err)
		}
		s.waits = append(s.waits, func() error {
			if err := cmd.Wait(); err != nil {
				return fmt.Errorf("%s (%w)", bytes.TrimSpace(out.Bytes()), err)
			}
			return nil
		})
	}
	return s, nil
}

// whenOneEnds calls f once for each start, when it has ended. It is called once.
func (s *starts) whenOneEnds(f func(error)) {
	for _, wait := range s.waits {
		s.ended.Go(func() { f(wait()) })
	}
}

// wait returns when all starts have ended.
func (s *starts) wait() {
	if s != nil {
		s.ended.Wait()
	}
}

// RunStart is StartCommand: it starts the container and returns when it runs.
func RunStart(ctx context.Context, socket, container string) error {
	// The daemon that reads our errors may be gone when there are any.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	c, err := cri.Dial(socket)
	if err != nil {
		return err
	}
	return errors.Join(c.StartContainer(ctx, container), c.Close())
}
