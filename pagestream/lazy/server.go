package lazy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
)

// Config of a server.
type Config struct {
	// Keeper is the connection that the keeper's start function got. Serve closes
	// it.
	Keeper *net.UnixConn
	// Reader holds the pages, and CRIU's images of Container.
	Reader    *store.Reader
	Container uint16
	// Journal is a directory of this server's own, on a tmpfs. It is the same
	// for all servers that the keeper starts.
	Journal string
	// Hold says that the server is a process of its own, as it should be. It then
	// starts a second one that holds its descriptors if it is killed.
	Hold bool
	// Calm is how long the background waits after CRIU has restored all processes:
	// until then these run for the first time, and their faults have the machine for
	// themselves.
	Calm time.Duration
	// Rate bounds the background, in bytes a second; 0 does not. What a process
	// faults on is served at once in any case.
	Rate uint64
	// Foremost is how many pages are put in place before the processes run, of those that came last; the container's share of the pod's.
	Foremost uint64
	// Urgent, if not nil, is called by the goroutine of Serve, which keeps its thread, when what it does becomes urgent, which it is
	// at first and whenever a process faults, and when it is that no more, or what comes next can wait. It may change the thread's priority.
	Urgent func(bool)
	// Remote gets pages that were left at the source; required if there are any.
	Remote *Remote
	Log    *slog.Logger
}

// Serve answers faults and fills in pages until all is in or ctx is done. It ends with nil only if all is in. Images of the container are read
// before the keeper hears of the server, so that CRIU's first fault finds it ready.
func Serve(ctx context.Context, cfg Config) error {
	b, err := Stand(cfg.Keeper, cfg.Hold)
	if err != nil {
		return err
	}
	return b.Serve(ctx, cfg)
}

// work is the life of a server that has been told what it serves.
func (s *server) work(ctx context.Context, cfg Config) error {
	s.cfg = cfg
	if cfg.Log != nil {
		s.log = cfg.Log
	}
	s.prioritise(true)
	if err := s.load(); err != nil {
		return err
	}
	// Waking a thread that sleeps in epoll_wait takes a descriptor.
	defer context.AfterFunc(ctx, func() { unix.Write(s.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.fetch(ctx)

	if err := s.run(); err != nil {
		return err
	}
	s.holder.stop()
	return nil
}

var (
	// errStopped ends a server that was told to stop.
	errStopped = errors.New("stopped")
	// errNoKeeper ends one whose processes cannot all come any more.
	errNoKeeper = errors.New("the keeper is gone before the restore has finished")
)

type server struct {
	cfg      Config
	log      *slog.Logger
	sources  map[int32]*source
	memories map[uint64]*memory
	order    []*memory // those still to be filled in, CRIU's before forked ones
	turn     int
	steps    uint64

	poll, sock, stop int      // sock is -1 when the keeper has gone
	arrived          int      // eventfd of the fetcher, -1 without one
	fetcher          *fetcher // nil if no page was left at the source

	holder   holder
	number   uint64         // of this server among those of the keeper
	held     map[uint64]int // pidfds of earlier servers' holders, by their number
	handed   []handed       // what the keeper said before ready
	ready    bool
	finished bool
	restored chan struct{} // closed when finished is set
	made     bool          // the keeper has said that all processes are made and held
	hinted   bool          // what the processes will want first is in place
	runs     bool          // the keeper has said that the container runs
	filling  bool          // the background has begun
	released bool          // what the container needs no more is given back, see giveBack
	trimmed  bool          // CRIU's pages files are freed
	nextID   uint64
	spares   spares

	progress Progress
	done     uint64 // pages of memories that have ended
	haste    haste
	pause    time.Time // when the background may go on
	reported time.Time
}

// load makes ready what the server is to serve.
func (s *server) load() error {
	if err := s.makeJournals(s.cfg.Journal); err != nil {
		return err
	}
	if err := s.loadSources(); err != nil {
		return err
	}
	return s.watchFetcher()
}

// makeJournals makes the place of the journals, and some of them, once.
func (s *server) makeJournals(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func (s *server) loadSources() error {
	dir := s.cfg.Reader.ImagesDir(s.cfg.Container)
	maps, err := images.ListPagemaps(dir)
	if err != nil {
		return err
	}
	for _, l := range maps {
		if l.Shared {
			continue
		}
		name := pagestream.Space{Container: s.cfg.Container, Kind: pagestream.Process, ID: l.ID}
		if err := name.Valid(); err != nil {
			return fmt.Errorf("pagemap %s: %w", l.Path, err)
		}
		src, err := loadSource(dir, l.ID, s.cfg.Reader.Space(name))
		if err != nil {
			return err
		}
		s.sources[src.pid] = src
		if err := s.leave(name, src); err != nil {
			return err
		}
	}
	s.hint()
	return nil
}

// source is what the images have of a process.
func (s *server) source(pid int32) (*source, error) {
	if src := s.sources[pid]; src != nil {
		return src, nil
	}
	return nil, fmt.Errorf("CRIU restores a process %d of which there is no pagemap: %w", pid, images.ErrFormat)
}

func (s *server) close() {
	if s.fetcher != nil {
		if err := s.fetcher.close(); err != nil {
			s.log.Warn("fault server: the place of missing pages", "error", err)
		}
	}
	for _, m := range s.memories {
		unix.Close(m.fd)
		m.journal.close()
	}
	for _, h := range s.handed {
		if h.fd >= 0 {
			unix.Close(h.fd)
		}
	}
	s.spares.drop()
	s.closeHeld()
	s.closeGivers()
	for _, src := range s.sources {
		src.close()
	}
	for _, fd := range []int{s.sock, s.stop, s.poll, s.arrived} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
