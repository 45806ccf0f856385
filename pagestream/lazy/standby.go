package lazy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// Standby is a server that has yet to be told what it serves. That is known when the images have come, and a pod stands
// still: what does not depend on it has been done before.
type Standby struct {
	s       *server
	serving bool
}

// Stand makes a server ready, with a holder if hold says so (Config.Hold), and takes the keeper's connection. The goroutine
// keeps its thread from then on, up to the end of Serve or Close, which it has to call.
func Stand(keeper *net.UnixConn, hold bool) (*Standby, error) {
	s := &server{
		log:     slog.New(slog.DiscardHandler),
		sources: make(map[int32]*source), memories: make(map[uint64]*memory), held: make(map[uint64]int),
		restored: make(chan struct{}),
		poll:     -1, sock: -1, stop: -1, arrived: -1, nextID: firstForked,
	}
	// From a fault to its page nothing is handed to another thread.
	runtime.LockOSThread()
	b := &Standby{s: s}
	if err := s.stand(keeper, hold); err != nil {
		b.Close()
		return nil, fmt.Errorf("fault server: %w", err)
	}
	return b, nil
}

func (s *server) stand(keeper *net.UnixConn, hold bool) (err error) {
	defer keeper.Close() // the keeper sees it end when the duplicate does
	if s.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if s.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	f, err := keeper.File()
	if err != nil {
		return fmt.Errorf("connection of the keeper: %w", err)
	}
	defer f.Close()
	if s.sock, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return fmt.Errorf("connection of the keeper: %w", err)
	}
	if err := s.watch(s.sock, tagKeeper); err != nil {
		return err
	}
	if err := s.watch(s.stop, tagStop); err != nil {
		return err
	}
	if !hold {
		return nil
	}
	if err := s.hold(); err != nil {
		return err
	}
	ownPages()
	return nil
}

// Expect makes the place of the journals, and some of them, before the server has to have them (Config.Journal).
func (b *Standby) Expect(journal string) error {
	if err := b.s.makeJournals(journal); err != nil {
		return fmt.Errorf("fault server: %w", err)
	}
	if err := b.s.spares.make(journal); err != nil {
		return fmt.Errorf("fault server: %w", err)
	}
	return nil
}

// Serve is the function Serve of a server that stands by: it has its keeper, and its holder, already.
func (b *Standby) Serve(ctx context.Context, cfg Config) error {
	b.serving = true
	defer runtime.UnlockOSThread()
	defer b.s.close()
	if err := b.s.work(ctx, cfg); err != nil {
		return fmt.Errorf("fault server: %w", err)
	}
	return nil
}

// Close ends a server that serves nothing: nobody needs it, or it cannot. After Serve it does nothing.
func (b *Standby) Close() {
	if b.serving {
		return
	}
	b.serving = true
	b.s.holder.stop()
	b.s.close()
	runtime.UnlockOSThread()
}
