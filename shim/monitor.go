package shim

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"

	gorunc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// restoreMonitor runs the stock service's runc, which knows of one restore of a
// container and takes its failure for the container's end. For those that somebody
// supervises it runs the same command again, with the same pipes, as long as the
// supervisor says so: to the stock service it is one command that takes its time.
type restoreMonitor struct {
	gorunc.ProcessMonitor

	mu sync.Mutex
	// supervisors by container id. Guarded by mu.
	supervisors map[string]supervisor
	copies      map[*exec.Cmd]*commandCopy // of commands at work, guarded by mu
}

// supervisor sees to the restores of a container.
type supervisor struct {
	// show changes the command right before it is run; nil: it is run as it is.
	show func(*exec.Cmd) error
	// ended is told how a restore ended, nil if well, and says whether it is to be run again.
	ended func(error) (again bool)
}

func newRestoreMonitor(m gorunc.ProcessMonitor) *restoreMonitor {
	return &restoreMonitor{ProcessMonitor: m,
		supervisors: make(map[string]supervisor), copies: make(map[*exec.Cmd]*commandCopy)}
}

// supervise has show asked before a restore of the container is run, and ended whenever one
// has ended, until forget is called.
func (m *restoreMonitor) supervise(id string, show func(*exec.Cmd) error, ended func(error) (again bool)) (forget func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.supervisors[id] = supervisor{show, ended}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.supervisors, id)
	}
}

// Start implements gorunc.ProcessMonitor.
func (m *restoreMonitor) Start(cmd *exec.Cmd) (chan gorunc.Exit, error) {
	return m.start(cmd, m.ProcessMonitor.Start)
}

// StartLocked implements gorunc.ProcessMonitor.
func (m *restoreMonitor) StartLocked(cmd *exec.Cmd) (chan gorunc.Exit, error) {
	return m.start(cmd, m.ProcessMonitor.StartLocked)
}

type startCommand func(*exec.Cmd) (chan gorunc.Exit, error)

func (m *restoreMonitor) start(cmd *exec.Cmd, start startCommand) (chan gorunc.Exit, error) {
	s, ok := m.supervisor(cmd)
	if !ok {
		return start(cmd)
	}
	// The stock service closes its files as soon as the command is started.
	c, err := copyCommand(cmd, start, s)
	if err != nil {
		return nil, err
	}
	exits, err := c.run(cmd)
	if err != nil {
		c.close()
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.copies[cmd] = c
	return exits, nil
}

// supervisor finds who supervises a command, if it is a restore.
func (m *restoreMonitor) supervisor(cmd *exec.Cmd) (s supervisor, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(cmd.Args) == 0 {
		return s, false
	}
	id := cmd.Args[len(cmd.Args)-1]
	if !isRestoreOf(cmd.Args, id) {
		return s, false
	}
	s, ok = m.supervisors[id]
	return s, ok
}

// Wait implements gorunc.ProcessMonitor: it returns how the last run ended.
func (m *restoreMonitor) Wait(cmd *exec.Cmd, exits chan gorunc.Exit) (int, error) {
	defer letGo(cmd)
	status, err := m.ProcessMonitor.Wait(cmd, exits)
	m.mu.Lock()
	c := m.copies[cmd]
	delete(m.copies, cmd)
	m.mu.Unlock()
	if c == nil {
		return status, err
	}
	defer c.close()
	for c.by.ended(failureOf(status, err)) {
		next := c.command()
		if exits, err = c.run(next); err != nil {
			status = -1
			continue
		}
		status, err = m.ProcessMonitor.Wait(next, exits)
		letGo(next)
	}
	return status, err
}

// failureOf makes an error of how a command ended.
func failureOf(status int, err error) error {
	if err == nil && status != 0 {
		err = fmt.Errorf("runc ended with status %d", status)
	}
	return err
}

// commandCopy is what it takes to run a command again. It has files of its own.
type commandCopy struct {
	path, dir     string
	args, env     []string
	stdin         io.Reader
	out           [2]io.Writer // standard output and error
	extra, opened []*os.File
	attr          *unix.SysProcAttr
	start         startCommand
	by            supervisor
}

// run runs the command, or one like it, as its supervisor has it shown.
func (c *commandCopy) run(cmd *exec.Cmd) (chan gorunc.Exit, error) {
	if c.by.show != nil {
		if err := c.by.show(cmd); err != nil {
			return nil, err
		}
	}
	return c.start(cmd)
}

func copyCommand(cmd *exec.Cmd, start startCommand, by supervisor) (*commandCopy, error) {
	c := &commandCopy{path: cmd.Path, dir: cmd.Dir, args: slices.Clone(cmd.Args), env: slices.Clone(cmd.Env),
		stdin: cmd.Stdin, out: [2]io.Writer{cmd.Stdout, cmd.Stderr}, attr: cmd.SysProcAttr, start: start, by: by}
	var err error
	if f, ok := cmd.Stdin.(*os.File); ok && f != nil {
		c.stdin, err = c.keep(f)
	}
	for i, w := range c.out {
		if f, ok := w.(*os.File); ok && f != nil && err == nil {
			c.out[i], err = c.keep(f)
		}
	}
	for _, f := range cmd.ExtraFiles {
		if err == nil {
			f, err = c.keep(f)
			c.extra = append(c.extra, f)
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// keep duplicates a file.
func (c *commandCopy) keep(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep %s for another restore: %w", f.Name(), err)
	}
	kept := os.NewFile(uintptr(fd), f.Name())
	c.opened = append(c.opened, kept)
	return kept, nil
}

// command is the command, not started.
func (c *commandCopy) command() *exec.Cmd {
	return &exec.Cmd{Path: c.path, Dir: c.dir, Args: c.args, Env: c.env, Stdin: c.stdin,
		Stdout: c.out[0], Stderr: c.out[1], ExtraFiles: c.extra, SysProcAttr: c.attr}
}

func (c *commandCopy) close() {
	for _, f := range c.opened {
		f.Close()
	}
}
