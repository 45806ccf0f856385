package byhand

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab"
)

// pipe runs a script on each node, the standard output of the first being the standard input of the second, over a TCP
// connection between the nodes that is made before. It returns when both have ended.
func (c *Container) pipe(ctx context.Context, source, sink string, args ...string) error {
	near, far, err := connect(ctx, c.from, c.to)
	if err != nil {
		return err
	}
	var work errgroup.Group
	take := script(ctx, c.to, sink, args)
	take.Stdin = far
	work.Go(func() error { defer far.Close(); return combined(c.to, take) })
	send := script(ctx, c.from, source, args)
	send.Stdout = near
	work.Go(func() error { defer near.Close(); return combined(c.from, send) })
	return work.Wait()
}

func script(ctx context.Context, n *lab.Node, text string, args []string) *exec.Cmd {
	return n.Command(ctx, append([]string{"bash", "-c", text, "bash"}, args...)...)
}

// combined runs a command whose standard error is for the error. It goes to a file: a container that the command has started
// may keep it open.
func combined(n *lab.Node, cmd *exec.Cmd) error {
	said, err := os.CreateTemp("", "godwit-by-hand-")
	if err != nil {
		return err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	cmd.Stderr = said
	if cmd.Stdout == nil {
		cmd.Stdout = said
	}
	if err := cmd.Run(); err != nil {
		b, _ := os.ReadFile(said.Name())
		return fmt.Errorf("node %s: %w: %s", n.Name, err, gist(string(b)))
	}
	return nil
}

// gist is what a command has said, without its warnings: runc quotes CRIU's log with them, of which said takes what matters.
func gist(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, `time="`) || strings.Contains(line, "level=error") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	short := strings.Join(lines, "; ")
	return short[max(0, len(short)-1000):]
}

// connect makes a TCP connection between two nodes.
func connect(ctx context.Context, from, to *lab.Node) (near, far *os.File, err error) {
	l, err := to.Listen(ctx, "tcp", net.JoinHostPort(to.Addr().String(), "0"))
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	out, err := from.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", to.Name, err)
	}
	defer in.Close()
	if near, err = blocking(out); err != nil {
		return nil, nil, err
	}
	if far, err = blocking(in); err != nil {
		return nil, nil, errors.Join(err, near.Close())
	}
	return near, far, nil
}

// blocking is a connection as programs expect their standard streams.
func blocking(conn net.Conn) (*os.File, error) {
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		return nil, fmt.Errorf("connection between nodes: %w", err)
	}
	if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
		return nil, errors.Join(fmt.Errorf("connection between nodes: %w", err), f.Close())
	}
	return f, nil
}
