package shim

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
)

// runReaped runs a command to its end, and kills it when ctx ends. The shim
// collects all its children in one place (containerd: pkg/sys/reaper), so
// exec's own Wait would find them gone.
func runReaped(ctx context.Context, cmd *exec.Cmd) error {
	p, err := startReaped(cmd)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { p.signal(syscall.SIGKILL) })
	defer stop()
	return p.wait()
}

// letGo closes what Go holds of a process that the reaper has collected, its pidfd:
// exec's Wait keeps it if it finds the process gone (os: Process.pidfdWait), and the
// garbage collector comes late in a shim, which makes little garbage.
func letGo(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = cmd.Process.Release()
	}
}

// reaped is a child process of the shim.
type reaped struct {
	mu    sync.Mutex
	cmd   *exec.Cmd // nil when the process has ended, guarded by mu
	ended chan struct{}
	err   error // set when ended is closed
}

func startReaped(cmd *exec.Cmd) (*reaped, error) {
	exits, err := reaper.Default.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &reaped{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		status, err := reaper.Default.Wait(cmd, exits)
		if err == nil && status != 0 {
			err = fmt.Errorf("%s ended with status %d", cmd.Path, status)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.cmd, p.err = nil, err
		letGo(cmd)
	}()
	return p, nil
}

func (p *reaped) wait() error {
	<-p.ended
	return p.err
}

// signal does nothing once the process has ended.
func (p *reaped) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// signalGroup is signal for the process group that the process leads.
func (p *reaped) signalGroup(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}
