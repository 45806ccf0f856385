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
// parking to the resume. Each is a process of its own, in a session of its own:
// containerd undoes a start whose caller goes away, and a daemon that restarts
// between the vote and the commit would take the pod with it.
type starts struct {
	commands []*exec.Cmd
	output   []*bytes.Buffer
	ended    sync.WaitGroup
}

// startContainers begins the starts.
func startContainers(socket string, containers []string) (*starts, error) {
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
			s.kill()
			return nil, fmt.Errorf("start container %.12s: %w", id, err)
		}
		s.commands, s.output = append(s.commands, cmd), append(s.output, out)
	}
	return s, nil
}

// whenOneEnds calls f once for each start, when it has ended. It is called once.
func (s *starts) whenOneEnds(f func(error)) {
	for i, cmd := range s.commands {
		s.ended.Go(func() {
			err := cmd.Wait()
			if err != nil {
				err = fmt.Errorf("%s (%w)", bytes.TrimSpace(s.output[i].Bytes()), err)
			}
			f(err)
		})
	}
}

// kill has containerd undo the starts. It is for the time before whenOneEnds.
func (s *starts) kill() {
	for _, cmd := range s.commands {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
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
