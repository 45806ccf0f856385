package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/trial"
)

// byHand is a redis that an operator runs with runc, and moves with runc's own commands and tar.
type byHand struct {
	from, to *lab.Node // it is on from
	redis    *load.Redis
}

// startByHand runs and fills it.
func startByHand(ctx context.Context, l *lab.Lab, memory int64) (*byHand, error) {
	image, err := trial.RedisImage(ctx, l)
	if err != nil {
		return nil, err
	}
	h := &byHand{from: l.Node("a"), to: l.Node("b")}
	for _, n := range []*lab.Node{h.from, h.to} {
		if err := prepare(ctx, n, image); err != nil {
			return nil, err
		}
	}
	if _, err := h.from.Exec(ctx, "bash", "-c", `cd "$1" && exec runc run -d "$2" </dev/null >/dev/null 2>&1`, "bash", handDir, containerID); err != nil {
		return nil, err
	}
	h.redis = load.NewRedis(at(h.from), trial.Keys(memory))
	return h, h.redis.Fill(ctx)
}

func at(n *lab.Node) string { return net.JoinHostPort(n.Addr().String(), trial.RedisPort) }

// handMove is what a move by hand came to.
type handMove struct {
	Gap   load.Gap
	Stood time.Duration // in the rounds, by the client's clock
	load.Verdict
}

// move moves it to the other node under load: rounds pre-dumps, each copied before the next one begins, then a checkpoint of
// the rest, its copy, and the restore, each begun by the end of the one before.
func (h *byHand) move(ctx context.Context, rounds, rate int) (handMove, error) {
	var m handMove
	writing, stop := context.WithCancel(ctx)
	var writer sync.WaitGroup
	defer writer.Wait()
	defer stop()
	h.redis.OnlyAt(at(h.from))
	h.redis.AlsoAt(at(h.to))
	before := h.redis.Acked()
	writer.Go(func() { h.redis.Write(writing, rate) })
	if err := h.redis.AwaitAcked(ctx, before+1); err != nil {
		return m, err
	}
	pause(ctx, trial.Settle)

	began := time.Now()
	for i := range rounds {
		if err := h.preDump(ctx, i); err != nil {
			return m, fmt.Errorf("pre-dump %d by hand: %w", i, err)
		}
	}
	final := time.Now()
	if err := h.finish(ctx, rounds); err != nil {
		return m, fmt.Errorf("checkpoint and restore by hand: %w", err)
	}
	restored := time.Now()
	if err := h.redis.AwaitAcked(ctx, h.redis.Acked()+1); err != nil {
		return m, err
	}
	pause(ctx, trial.Settle)
	stop()
	writer.Wait()
	m.Gap = h.redis.LongestGapWithin(final, restored)
	m.Stood = h.redis.StoodWithin(began, final, trial.Noticeable)
	h.from, h.to = h.to, h.from
	if err := h.clean(ctx); err != nil {
		return m, err
	}
	var err error
	m.Verdict, err = h.redis.Verify(ctx)
	return m, err
}

// clean removes the images.
func (h *byHand) clean(ctx context.Context) error {
	for _, n := range []*lab.Node{h.from, h.to} {
		if _, err := n.Exec(ctx, "rm", "-rf", imagesIn); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// The scripts of the two ends. Their arguments are the images directory, the container, the number of the checkpoint, and
// that of its parent or nothing.
const (
	dumpRound = `set -e; mkdir -p "$1"; cd "$1"
runc checkpoint --pre-dump --image-path "$1/$3" --work-path "/tmp/hand-$3" ${4:+--parent-path "../$4"} "$2" >&2
tar -cf - "$3"`
	takeRound = `set -e; mkdir -p "$1"; tar -xf - -C "$1"`

	dumpLast = `set -e; cd "$1"
runc checkpoint --image-path "$1/$3" --work-path "/tmp/hand-$3" --parent-path "../$4" "$2" >&2
tar -cf - "$3"`
	restore = `set -e; tar -xf - -C "$1"; cd "` + handDir + `"
exec runc restore -d --image-path "$1/$3" --work-path /tmp/hand-restore "$2" </dev/null >/dev/null 2>/tmp/hand-restore.err`
)

// preDump does a round and copies it.
func (h *byHand) preDump(ctx context.Context, i int) error {
	parent := ""
	if i > 0 {
		parent = strconv.Itoa(i - 1)
	}
	return h.pipe(ctx, dumpRound, takeRound, imagesIn, containerID, strconv.Itoa(i), parent)
}

// finish does what the container stands still for.
func (h *byHand) finish(ctx context.Context, i int) error {
	err := h.pipe(ctx, dumpLast, restore, imagesIn, containerID, strconv.Itoa(i), strconv.Itoa(i-1))
	if err != nil {
		said, _ := h.to.Exec(ctx, "sh", "-c", "tail -n 5 /tmp/hand-restore.err; grep Error /tmp/hand-*/*.log")
		err = fmt.Errorf("%w\n%s", err, said)
	}
	return err
}

// pipe runs a script on each node, the standard output of the first being the standard input of the second, over a TCP
// connection between the nodes that is made before. It returns when both have ended.
func (h *byHand) pipe(ctx context.Context, source, sink string, args ...string) error {
	near, far, err := connect(ctx, h.from, h.to)
	if err != nil {
		return err
	}
	var work errgroup.Group
	take := script(ctx, h.to, sink, args)
	take.Stdin = far
	work.Go(func() error { defer far.Close(); return combined(h.to, take) })
	send := script(ctx, h.from, source, args)
	send.Stdout = near
	work.Go(func() error { defer near.Close(); return combined(h.from, send) })
	return work.Wait()
}

func script(ctx context.Context, n *lab.Node, text string, args []string) *exec.Cmd {
	return n.Command(ctx, append([]string{"bash", "-c", text, "bash"}, args...)...)
}

// combined runs a command whose standard error is for the error.
func combined(n *lab.Node, cmd *exec.Cmd) error {
	said, err := os.CreateTemp("", "enginebench-")
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
		return fmt.Errorf("node %s: %w: %s", n.Name, err, b[max(0, len(b)-2000):])
	}
	return nil
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
