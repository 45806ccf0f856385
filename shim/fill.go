package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/lazy"
	"godwit.dev/godwit/pagestream/store"
	shimv1 "godwit.dev/godwit/shim/api/v1"
	"godwit.dev/godwit/timerslack"
)

const (
	// fillSocket is the descriptor at which a fault server finds its keeper,
	// fillOrders that at which it is told what it serves.
	fillSocket = 3
	fillOrders = 4
	// fillNice is a fault server's priority when nobody waits for it: filling in is for when nobody else wants the processor. When
	// processes fault it is as urgent as they are, and more so than all who only share the node with them.
	fillNice, urgentNice = 5, -10
	// fillOversleep is by how much the threads of a fault server may that serve no faults.
	fillOversleep = time.Millisecond
	// fillCalm is how long the restored pod has the machine for itself.
	fillCalm = 150 * time.Millisecond
)

// fillConfig says whose memory is filled in.
type fillConfig struct {
	// work is where CRIU works and looks for its fault server.
	work string
	// changed is called when there is progress, lost when the container's memory
	// cannot be completed, so that it has to be ended.
	changed func()
	lost    func(error)
}

// fillOrder is what a fault server is told to serve.
type fillOrder struct {
	// Store is the sealed store, Container the number of the container in it.
	Store     string
	Container uint16
	// Attempt is the number of the restore whose processes are served.
	Attempt int
	// Ahead: the store is not sealed yet, and the same comes again when it is.
	Ahead bool
	// Foremost is how many pages are put in place before the container runs.
	Foremost uint64
	// Fetch says how pages come that were left at the source.
	Fetch fetchOrder
}

// orderOf is the order that goes with an attempt at a restore, for one of the pod's containers.
func (d *destination) orderOf(r *shimv1.RestoreRequest, attempt int) fillOrder {
	return fillOrder{
		Store: r.GetStoreDir(), Container: uint16(r.GetIndex()), Attempt: attempt,
		Foremost: lazy.Foremost / uint64(d.containers()), Fetch: fetchOf(r),
	}
}

// journal is the directory of the fault servers of one attempt: what they note of its
// processes' memory says nothing of that of the next.
func (o fillOrder) journal() string {
	return filepath.Join(o.Store, fmt.Sprintf("journal-%d-%d", o.Container, o.Attempt))
}

// fill brings the memory of one restored container: the shim keeps the
// descriptors, a helper process serves.
type fill struct {
	keeper *lazy.Keeper
	cancel context.CancelFunc
	done   chan struct{}
	// expected is closed when ahead is set, ordered when order is.
	expected, ordered chan struct{}
	ahead, order      fillOrder

	mu  sync.Mutex
	err error // of Run, guarded by mu, valid when done is closed
}

// fillStats is how far a fill has come, in pages.
type fillStats struct {
	filled, total, faults uint64
	missing, remote       uint64 // pages still at the source, faults that waited for some
	done                  bool
	lost                  error // pages are missing for good
}

// startFill listens for CRIU and starts the fault server, which waits to be told
// what it serves: to start a process takes time that a frozen pod has not.
func startFill(ctx context.Context, log *slog.Logger, c fillConfig) (*fill, error) {
	listener, err := listenIn(c.work, lazy.SocketName)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &fill{cancel: cancel, done: make(chan struct{}), expected: make(chan struct{}), ordered: make(chan struct{})}
	f.keeper = lazy.NewKeeper(lazy.KeeperConfig{
		Listener: listener,
		Start:    f.startServer,
		Log:      log,
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
		if p := f.keeper.Progress(); err == nil {
			log.Info("memory is filled in", "pages", p.Total, "took", p.Fill, "store_and_pod_at_most", p.Peak, "left_in_store", p.Held)
		}
		if err != nil && ctx.Err() == nil {
			log.Error("memory cannot be filled in", "error", err)
			c.lost(err)
		}
		c.changed()
	}()
	return f, nil
}

// expect tells the server what it will serve, as far as that is known before the images have come.
// It is called once, or never.
func (f *fill) expect(order fillOrder) {
	order.Ahead = true
	f.ahead = order
	close(f.expected)
}

// serve tells the server. It is called once.
func (f *fill) serve(order fillOrder) {
	f.order = order
	close(f.ordered)
}

// made says, of a fill if there is one, that all processes of the container are made and held.
func (f *fill) made() {
	if f != nil {
		f.keeper.Made()
	}
}

// release says, of a fill if there is one, that the container runs and is never restored
// again: from then on the store gives its memory back.
func (f *fill) release() {
	if f != nil {
		f.keeper.Release()
	}
}

// startServer starts a fault server, and tells it what it serves as soon as that is known.
func (f *fill) startServer(conn *os.File) (lazy.Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("order for the fault server: %w", err)
	}
	p, err := startHelper([]*os.File{conn, r}, helperFill)
	r.Close()
	if err != nil {
		w.Close()
		return nil, err
	}
	go func() { // until the server is told, or has ended
		defer w.Close()
		f.tell(w, p.ended)
	}()
	return fillProcess{p}, nil
}

// tell gives a server its orders. One that has died is followed by another.
func (f *fill) tell(w io.Writer, ended <-chan struct{}) {
	orders := json.NewEncoder(w)
	select {
	case <-f.ordered:
	case <-ended:
	case <-f.expected:
		select {
		case <-f.ordered: // nothing is ahead of it any more
		default:
			_ = orders.Encode(f.ahead)
		}
	}
	select {
	case <-f.ordered:
		_ = orders.Encode(f.order)
	case <-ended:
	}
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
	s := fillStats{filled: p.Filled, total: p.Total, faults: p.Faults, missing: p.Missing, remote: p.Remote}
	select {
	case <-f.done:
		f.mu.Lock()
		s.done = f.err == nil
		if errors.Is(f.err, lazy.ErrSourceLost) {
			s.lost = f.err
		}
		f.mu.Unlock()
	default:
	}
	return s
}

// stop ends the fill of a container whose processes are gone, if there is one,
// and waits.
func (f *fill) stop() {
	if f == nil {
		return
	}
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

// runFill is the helper that serves, once it is told what. If it is told nothing, nobody needs it.
func runFill() error {
	keeper, err := lazy.ServerConn(fillSocket)
	if err != nil {
		return err
	}
	// It has little garbage, and what it does a pod waits for.
	defer holdCollector()()
	server, err := lazy.Stand(keeper, true)
	if err != nil {
		return err
	}
	defer server.Close()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := timerslack.Widen(fillOversleep); err != nil { // the server's own thread may not
		log.Warn("a fault server's runtime takes more of the processors than it need", "error", err)
	}
	order, err := awaitOrder(os.NewFile(fillOrders, "order"), func(o fillOrder) {
		if err := server.Expect(o.journal()); err != nil {
			log.Warn("nothing is made ready for a container's memory", "error", err) // Serve says so if it stays like that
		}
	})
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	reader, err := store.OpenContainer(order.Store, order.Container)
	if err != nil {
		return err
	}
	defer reader.Close()
	remote, err := order.remote()
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), lazy.Config{
		Reader: reader, Container: order.Container, Calm: fillCalm, Log: log,
		Journal: order.journal(), Foremost: order.Foremost, Remote: remote, Urgent: prioritise(log),
	})
}

// prioritise has the calling thread wait for processors as long as what it does is worth. One that may not go before others is slower, no more.
func prioritise(log *slog.Logger) func(urgent bool) {
	refused := false
	return func(urgent bool) {
		nice := fillNice
		if urgent {
			nice = urgentNice
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); err != nil && !refused {
			refused = true
			log.Warn("a fault server keeps its priority", "wanted", nice, "error", err)
		}
	}
}

// awaitOrder waits for the order to serve, and has what comes ahead of it prepared; io.EOF is the end of who would give it.
func awaitOrder(f *os.File, prepare func(fillOrder)) (fillOrder, error) {
	defer f.Close()
	warmUp()
	orders := json.NewDecoder(f)
	for {
		var order fillOrder
		err := orders.Decode(&order)
		if err != nil && !errors.Is(err, io.EOF) {
			err = fmt.Errorf("order for the fault server: %w", err)
		}
		if err != nil {
			return fillOrder{}, err
		}
		if !order.Ahead {
			return order, nil
		}
		prepare(order)
	}
}

// warmUp decodes an order: the first time takes longest, and a pod stands still when the order comes.
func warmUp() {
	var order fillOrder
	if sample, err := json.Marshal(fillOrder{}); err == nil {
		_ = json.Unmarshal(sample, &order)
	}
}
