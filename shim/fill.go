package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/lazy"
	"godwit.dev/godwit/pagestream/store"
)

const (
	// fillSocket is the descriptor at which a fault server finds its keeper.
	fillSocket = 3
	// fillNice is a fault server's priority.
	fillNice = 5
	// fillCalm is how long the restored pod has the machine for itself.
	fillCalm = 150 * time.Millisecond
)

// fillConfig says whose memory is filled in, and from where.
type fillConfig struct {
	// work is where CRIU works and looks for its fault server.
	work string
	// store is the sealed store, container the number of the container in it.
	store     string
	container uint16
	// changed is called when there is progress, lost when the container's memory
	// cannot be completed, so that it has to be ended.
	changed func()
	lost    func(error)
}

// fill brings the memory of one restored container: the shim keeps the
// descriptors, a helper process serves.
type fill struct {
	keeper *lazy.Keeper
	cancel context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	err error // of Run, guarded by mu, valid when done is closed
}

// fillStats is how far a fill has come, in pages.
type fillStats struct {
	filled, total, faults uint64
	done                  bool
}

// startFill listens for CRIU and starts the fault server.
func startFill(ctx context.Context, log *slog.Logger, c fillConfig) (*fill, error) {
	listener, err := listenIn(c.work, lazy.SocketName)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &fill{cancel: cancel, done: make(chan struct{})}
	f.keeper = lazy.NewKeeper(lazy.KeeperConfig{
		Listener: listener,
		Start: func(conn *os.File) (lazy.Process, error) {
			p, err := startHelper(conn, helperFill, c.store, strconv.Itoa(int(c.container)), filepath.Join(c.store, fmt.Sprintf("journal-%d", c.container)))
			if err != nil {
				return nil, err
			}
			return fillProcess{p}, nil
		},
		Log: log,
		Progress: func(p lazy.Progress) {
			if p.Lost > 0 {
				c.lost(fmt.Errorf("the memory of %d forked processes was lost with their fault server", p.Lost))
			}
			c.changed()
		},
	})
	go func() {
		defer close(f.done)
		defer listener.Close()
		err := f.keeper.Run(ctx)
		f.mu.Lock()
		f.err = err
		f.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			log.Error("memory cannot be filled in", "error", err)
			c.lost(err)
		}
		c.changed()
	}()
	return f, nil
}

// listenIn listens on a unix socket by a path that may be longer than a socket's
// address can be.
func listenIn(dir, name string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("CRIU's work directory: %w", err)
	}
	defer d.Close()
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	address := fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for CRIU's lazy restore: %w", err)
	}
	listener.SetUnlinkOnClose(false) // the path is not its own; Restore.Close removes it
	return listener, nil
}

// stats is how far the fill has come.
func (f *fill) stats() fillStats {
	p := f.keeper.Progress()
	s := fillStats{filled: p.Filled, total: p.Total, faults: p.Faults}
	select {
	case <-f.done:
		f.mu.Lock()
		s.done = f.err == nil
		f.mu.Unlock()
	default:
	}
	return s
}

// stop ends the fill of a container whose processes are gone, and waits.
func (f *fill) stop() {
	f.cancel()
	<-f.done
	f.keeper.Close()
}

// fillProcess is a fault server's process.
type fillProcess struct{ *reaped }

func (p fillProcess) Kill() error {
	p.signal(syscall.SIGKILL)
	return nil
}

func (p fillProcess) Wait() error { return p.wait() }

// runFill is the helper that serves: its arguments are the store's directory,
// the container's number and the journal's directory.
func runFill(args []string) error {
	if len(args) != 3 {
		return errors.New("want STORE CONTAINER JOURNAL")
	}
	container, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return fmt.Errorf("container number: %w", err)
	}
	keeper, err := lazy.ServerConn(fillSocket)
	if err != nil {
		return err
	}
	reader, err := store.OpenSealed(args[0])
	if err != nil {
		return err
	}
	defer reader.Close()
	// Filling in is for when nobody else wants the processor, the pod first of
	// all. One that waits for a page sleeps, and leaves its own to the server.
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, fillNice); err != nil {
		return fmt.Errorf("set priority: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return lazy.Serve(context.Background(), lazy.Config{
		Keeper: keeper, Reader: reader, Container: uint16(container), Journal: args[2], Hold: true, Calm: fillCalm, Log: log,
	})
}
