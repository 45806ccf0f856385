package lazy

import (
	"fmt"
	"net"
	"os"
	"os/exec"
)

// Process is a server process that was started.
type Process interface {
	// Kill ends it at once.
	Kill() error
	// Wait returns when it has ended. It is called once.
	Wait() error
}

// StartCommand starts cmd with conn as the last of its extra files, for a start
// function. In the process, ServerConn makes a connection of it.
func StartCommand(cmd *exec.Cmd, conn *os.File) (Process, error) {
	cmd.ExtraFiles = append(cmd.ExtraFiles, conn)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return command{cmd}, nil
}

type command struct{ *exec.Cmd }

func (c command) Kill() error { return c.Process.Kill() }

// ServerConn makes the connection to the keeper of a descriptor, which is 3 if
// StartCommand passed no other file. The descriptor is used up.
func ServerConn(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "keeper")
	if f == nil {
		return nil, fmt.Errorf("connection of the keeper: %d is no descriptor", fd)
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("connection of the keeper: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("connection of the keeper: descriptor %d is no unix socket", fd)
	}
	return conn, nil
}
