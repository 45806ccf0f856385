package lazy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// KeeperConfig says what a Keeper needs.
type KeeperConfig struct {
	// Listener is bound to SocketName in the work directory of the restore.
	Listener *net.UnixListener
	// Start starts a process that calls Serve with conn as its Config.Keeper. It
	// does not keep conn. Start is called again each time the process has died.
	Start func(conn *os.File) (Process, error)
	Log   *slog.Logger
	// Progress, if not nil, is called at each change, one call at a time.
	Progress func(Progress)
	// Restarts is how often the server may die in a row without having filled in
	// anything; 0 means 10.
	Restarts int
}

// Keeper holds the userfaultfds of a container that is being restored, and the server
// at work. All its descriptors are closed when every page is in, else by Close.
type Keeper struct {
	cfg KeeperConfig
	log *slog.Logger

	// mu guards what follows.
	mu       sync.Mutex
	kept     map[uint64]*kept
	number   uint64 // of the newest server
	sock     int    // of the server at work; -1 if there is none
	servers  []serverEnd
	finished time.Time // when CRIU was; zero before that
	made     bool      // all processes are made and held
	released bool      // the container runs
	progress Progress
}

// serverEnd is the keeper's end of a server's connection. While it is open, the
// server's holder lives.
type serverEnd struct {
	number uint64
	sock   int
	holder int // pidfd, -1 if there is none
}

// kept is a memory that the server has to serve; once it has ended it is remembered
// without descriptor.
type kept struct {
	message
	fd int
}

// ErrServer is wrapped by the error of a server that dies again and again. The
// container hangs on its memory then, and has to be ended before Close.
var ErrServer = errors.New("fault server keeps dying")

// NewKeeper returns a keeper, for one call of Run.
func NewKeeper(cfg KeeperConfig) *Keeper {
	k := &Keeper{cfg: cfg, log: cfg.Log, kept: make(map[uint64]*kept), sock: -1}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.cfg.Restarts == 0 {
		k.cfg.Restarts = 10
	}
	return k
}

// Progress counts what the servers have done.
func (k *Keeper) Progress() Progress {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.progress
}

// Run takes CRIU's connection and keeps a server at work until every page of every
// process is in; then it returns nil. An error wraps ErrRestore if CRIU has failed,
// ErrServer if servers keep dying, else the context's. After an error the
// userfaultfds are still held, so that processes hang rather than read zeros: end the
// container, then Close.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var criu sync.WaitGroup
	defer criu.Wait()
	// A deadline passed wakes whoever waits for CRIU.
	defer context.AfterFunc(ctx, func() { k.cfg.Listener.SetDeadline(time.Unix(1, 0)) })()
	criu.Go(func() {
		if err := k.restore(ctx); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("lazy restore: %w", err))
		}
	})
	err := k.keepServing(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	cancel(nil)
	if err != nil {
		return err
	}
	return k.Close()
}

// Close closes all userfaultfds that are still held. Memory that was not filled in
// reads as zero from then on.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	for id, m := range k.kept {
		if m.fd >= 0 {
			err = errors.Join(err, unix.Close(m.fd))
		}
		delete(k.kept, id)
	}
	k.dropServers(len(k.servers))
	return err
}

// dropServers lets go of the first n servers, with mu held.
func (k *Keeper) dropServers(n int) {
	for _, s := range k.servers[:n] {
		unix.Close(s.sock)
		if s.holder >= 0 {
			unix.Close(s.holder)
		}
	}
	k.servers = append(k.servers[:0], k.servers[n:]...)
}

// restore listens to CRIU.
func (k *Keeper) restore(ctx context.Context) error {
	conn, err := k.cfg.Listener.AcceptUnix()
	if err != nil {
		return fmt.Errorf("accept CRIU: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	id := uint64(0)
	err = handshake(conn, func(pid int32, fd int) error {
		id++
		k.hold(message{kind: memoryMsg, id: id, pid: pid}, fd)
		return nil
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.finished = time.Now()
	k.progress.Finished = true
	k.say(message{kind: finishedMsg}, -1)
	return nil
}

// Made says that CRIU has made all processes and holds them: what they will want first is put in place.
func (k *Keeper) Made() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.made {
		k.made = true
		k.say(message{kind: madeMsg}, -1)
	}
}

// Release says that the container runs and is never restored again: the rest of its memory
// is filled in from then on, and the store gives back what is in place. What is said of it
// again is not heard.
func (k *Keeper) Release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.released {
		k.released = true
		k.say(message{kind: releasedMsg}, -1)
	}
}

// hold keeps a memory and hands it to the server at work.
func (k *Keeper) hold(m message, fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[m.id] = &kept{m, fd}
	if m.kind == memoryMsg {
		k.say(m, fd)
	}
}

// say tells the server at work, with mu held. One that does not hear is dead, and the
// next is told everything.
func (k *Keeper) say(m message, fd int) {
	if k.sock < 0 {
		return
	}
	if err := send(k.sock, m, fd, 0); err != nil {
		k.log.Debug("fault server does not listen", "error", err)
	}
}

// keepServing starts servers until one has finished.
func (k *Keeper) keepServing(ctx context.Context) error {
	var delay time.Duration
	for deaths := 0; ; {
		before := k.Progress()
		done, err := k.serveOnce(ctx)
		if done || ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrSourceLost) {
			return err
		}
		if k.Progress().Filled != before.Filled {
			deaths, delay = 0, 0
		}
		if deaths++; deaths > k.cfg.Restarts {
			return fmt.Errorf("%w: %d times, at last: %w", ErrServer, deaths, err)
		}
		k.log.Warn("fault server died; starting another", "error", err, "deaths", deaths)
		k.mu.Lock()
		k.progress.Restarts++
		k.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay+5*time.Millisecond, time.Second)
	}
}

// serveOnce starts a server and stays with it to its end. done says that every page
// is in.
func (k *Keeper) serveOnce(ctx context.Context) (done bool, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("socketpair: %w", err)
	}
	k.mu.Lock()
	k.number++
	k.servers = append(k.servers, serverEnd{k.number, pair[0], -1})
	k.mu.Unlock()
	theirs := os.NewFile(uintptr(pair[1]), "keeper")
	proc, err := k.cfg.Start(theirs)
	theirs.Close() // its end is the server's end
	if err != nil {
		return false, fmt.Errorf("start fault server: %w", err)
	}
	defer context.AfterFunc(ctx, func() { proc.Kill() })()
	ended := make(chan error, 1)
	go func() {
		err := proc.Wait()
		// The holder may keep the connection open. What was sent is still read.
		unix.Shutdown(pair[0], unix.SHUT_RD)
		ended <- err
	}()
	k.handOver(pair[0])
	done, err = k.listen(pair[0])
	k.mu.Lock()
	k.sock = -1
	k.mu.Unlock()
	if err != nil {
		// It may be alive, talking nonsense.
		proc.Kill()
	}
	end := <-ended
	if errors.Is(err, ErrSourceLost) {
		return false, err // it was killed for that
	}
	return done, errors.Join(err, end)
}

// handOver tells a new server all that is known. What CRIU says from then on is passed
// on as it comes.
func (k *Keeper) handOver(sock int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sock = sock
	for _, s := range k.servers {
		if s.holder >= 0 {
			k.say(message{kind: heldMsg, id: s.number}, s.holder)
		}
	}
	for _, m := range k.kept {
		m.kind = memoryMsg
		if m.fd < 0 {
			m.kind = endedMsg
		}
		k.say(m.message, m.fd)
	}
	if !k.finished.IsZero() {
		k.say(message{kind: finishedMsg}, -1)
	}
	if k.made {
		k.say(message{kind: madeMsg}, -1)
	}
	if k.released {
		k.say(message{kind: releasedMsg}, -1)
	}
	k.say(message{kind: readyMsg, id: k.number}, -1)
}

// listen takes what the server says until its connection ends, which it does when it
// has ended: when the last thread of it has left its last system call.
func (k *Keeper) listen(sock int) (done bool, err error) {
	for {
		m, fd, err := receive(sock, 0)
		switch {
		case errors.Is(err, io.EOF):
			return done, nil
		case err != nil:
			return false, fmt.Errorf("listen to the fault server: %w", err)
		}
		switch m.kind {
		case holderMsg:
			k.mu.Lock()
			k.servers[len(k.servers)-1].holder = fd
			k.mu.Unlock()
		case adoptedMsg:
			k.mu.Lock()
			k.dropServers(len(k.servers) - 1)
			k.mu.Unlock()
		case forkedMsg:
			k.hold(m, fd)
		case doneMsg:
			k.letGo(m.id)
		case progressMsg:
			k.note(m)
		case allDoneMsg:
			done = true
			k.mu.Lock()
			k.progress.Fill = time.Since(k.finished)
			k.mu.Unlock()
		case sourceLostMsg:
			return false, fmt.Errorf("%w: %d pages", ErrSourceLost, m.missing)
		default:
			return false, fmt.Errorf("message of kind %d from the fault server: %w", m.kind, errMessage)
		}
	}
}

// letGo closes the duplicate of a memory that needs nothing more.
func (k *Keeper) letGo(id uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m := k.kept[id]; m != nil && m.fd >= 0 {
		unix.Close(m.fd)
		m.fd = -1
	}
	k.say(message{kind: closedMsg, id: id}, -1)
}

func (k *Keeper) note(m message) {
	k.mu.Lock()
	p := &k.progress
	p.Filled, p.Total, p.Faults = m.filled, m.total, max(p.Faults, m.faults)
	p.Memories, p.Lost = int(m.memories), max(p.Lost, int(m.lost))
	p.Missing, p.Remote = m.missing, max(p.Remote, m.remote)
	p.Held, p.Peak = m.held, max(p.Peak, m.peak)
	now := *p
	k.mu.Unlock()
	if k.cfg.Progress != nil {
		k.cfg.Progress(now)
	}
}
