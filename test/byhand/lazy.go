package byhand

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

// lazyPort is where CRIU serves pages at the source.
const lazyPort = "7999"

// The scripts of a move by CRIU's own lazy pages. The first dumps, says so with one byte on descriptor 3, and serves pages to
// its end; the second sends what else there is; the third runs CRIU's daemon that fetches pages, restores, says so, and ends with the daemon.
// Their arguments are the bundle's directory, the container, the source's address and port, and the files that come along or nothing.
const (
	dumpLazily = `set -e; mkdir -p "$1/images"
exec runc checkpoint --lazy-pages --page-server "$3:$4" --status-fd 3 --image-path "$1/images/0" --work-path /tmp/hand-0 "$2" >&2`
	sendImages   = `set -e; cd "$1"; tar -cf - images/0 ${5:+"$5"}`
	restoreLater = `set -e; mkdir -p /tmp/hand-restore; cd "$1"; [ -z "$5" ] || rm -rf "./$5"; tar -xf -
criu lazy-pages --page-server --address "$3" --port "$4" -D "$1/images/0" -W /tmp/hand-restore -o lazy.log </dev/null >&2 &
daemon=$!
until [ -S /tmp/hand-restore/lazy-pages.socket ]; do kill -0 $daemon; sleep 0.005; done
runc restore -d --lazy-pages --image-path "$1/images/0" --work-path /tmp/hand-restore "$2" </dev/null >/dev/null 2>/tmp/hand-restore.err || { kill $daemon; exit 1; }
echo restored
wait $daemon`
)

// FinishLazily moves by CRIU's own lazy pages: a checkpoint without memory, its copy, and a restore for which CRIU fetches
// pages from the CRIU at the source, those first that are waited for. restored is called when the container runs on the other
// node; FinishLazily returns when all pages are there.
func (c *Container) FinishLazily(ctx context.Context, restored func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	putBack, err := letPipesGrow()
	if err != nil {
		return err
	}
	defer putBack()
	if err := c.lazily(ctx, cancel, restored); err != nil {
		return fmt.Errorf("criu's lazy pages by hand: %w%s", err, c.said(ctx))
	}
	return c.moved(ctx)
}

// Where the kernel says how large a pipe may be, bytes, and what CRIU wants at most.
const (
	pipeLimit = "/proc/sys/fs/pipe-max-size"
	criuPipe  = 4 << 20
)

// letPipesGrow lets pipes be as large as CRIU wants one, until the function that it returns is called. Who has CAP_SYS_RESOURCE may make any,
// and machines in a sandbox do not have it (kernel: fs/pipe.c, pipe_set_size). CRIU's page server does not notice that it was
// refused one, and ends at the first page that is not at the begin of its pipes (criu/page-pipe.c, pipe_read_dest_init and page_pipe_read).
func letPipesGrow() (putBack func(), err error) {
	was, err := os.ReadFile(pipeLimit)
	if err != nil {
		return nil, fmt.Errorf("limit of pipes: %w", err)
	}
	if now, err := strconv.Atoi(strings.TrimSpace(string(was))); err != nil || now >= criuPipe {
		return func() {}, err
	}
	if err := os.WriteFile(pipeLimit, []byte(strconv.Itoa(criuPipe)), 0); err != nil {
		return nil, fmt.Errorf("limit of pipes, which CRIU's page server needs at %d: %w", criuPipe, err)
	}
	return func() { _ = os.WriteFile(pipeLimit, was, 0) }, nil
}

func (c *Container) lazily(ctx context.Context, cancel context.CancelFunc, restored func()) error {
	ready, status, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	args := []string{dir, containerID, c.from.Addr().String(), lazyPort, c.files}
	dump := script(ctx, c.from, dumpLazily, args)
	dump.ExtraFiles = []*os.File{status}
	var work errgroup.Group
	work.Go(func() error {
		defer status.Close()
		err := combined(c.from, dump)
		if err != nil {
			cancel() // nobody serves pages any more
		}
		return err
	})
	// runc's copy of the descriptor is the one that counts; ours keeps a failed dump from being seen only until it has ended.
	var b [1]byte
	if _, err := io.ReadFull(ready, b[:]); err != nil {
		cancel()
		return fmt.Errorf("await the images: %w (%w)", err, work.Wait())
	}
	work.Go(func() error {
		err := c.fetch(ctx, args, restored)
		if err != nil {
			cancel()
		}
		return err
	})
	return work.Wait()
}

// fetch copies the images, restores, and returns when all pages have been fetched.
func (c *Container) fetch(ctx context.Context, args []string, restored func()) error {
	near, far, err := connect(ctx, c.from, c.to)
	if err != nil {
		return err
	}
	var work errgroup.Group
	send := script(ctx, c.from, sendImages, args)
	send.Stdout = near
	work.Go(func() error { defer near.Close(); return combined(c.from, send) })

	told, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	take := script(ctx, c.to, restoreLater, args)
	take.Stdin, take.Stdout = far, tell
	work.Go(func() error { defer far.Close(); defer tell.Close(); return combined(c.to, take) })
	work.Go(func() error {
		defer told.Close()
		if line, _ := bufio.NewReader(told).ReadString('\n'); line == "restored\n" {
			restored()
			return nil
		}
		return fmt.Errorf("node %s did not restore", c.to.Name)
	})
	return work.Wait()
}
