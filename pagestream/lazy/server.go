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

// handed is a memory that the keeper told of, without descriptor if it has ended.
type handed struct {
	message
	fd int
}

// firstForked is over every id that a keeper gives.
const firstForked = 1 << 32

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

// hold starts the holder and shows it to the keeper.
func (s *server) hold() error {
	var err error
	if s.holder, err = startHolder(s.sock); err != nil {
		return err
	}
	fd, err := s.holder.pidfd()
	if err != nil {
		return err
	}
	s.tell(message{kind: holderMsg}, fd)
	return unix.Close(fd)
}

// Tags of descriptors in epoll; a memory's is its id.
const (
	tagKeeper = ^uint64(0)
	tagStop   = tagKeeper - 1
	tagPages  = tagKeeper - 2
)

func (s *server) watch(fd int, tag uint64) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(tag), Pad: int32(tag >> 32)}
	if err := unix.EpollCtl(s.poll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll: %w", err)
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

// maxSpins is how often a process whose memory is changing is looked at before the
// server sleeps.
const maxSpins = 200

// run is the life of the server's thread.
func (s *server) run() error {
	var events [64]unix.EpollEvent
	wait, spins := -1, 0
	for {
		if s.sock < 0 && !s.alone() {
			return errNoKeeper
		}
		n, err := unix.EpollWait(s.poll, events[:], wait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, ev := range events[:max(n, 0)] {
			if err := s.dispatch(uint64(uint32(ev.Fd)) | uint64(uint32(ev.Pad))<<32); err != nil {
				return err
			}
		}
		waiting, err := s.again()
		if err != nil {
			return err
		}
		res, worked, err := s.fill()
		if err != nil {
			return err
		}
		if err := errors.Join(s.giveBack(), s.settle()); err != nil {
			return err
		}
		if s.finished && s.ready && len(s.memories) == 0 && s.partedFromSource() {
			s.report(true)
			s.tell(message{kind: allDoneMsg}, -1)
			s.spares.drop()
			_ = os.Remove(s.cfg.Journal) // empty, unless a crash left something
			return nil
		}
		s.report(false)
		switch {
		case res == filled && worked:
			wait = 0
		case res == paced && !waiting:
			wait = max(1, int((time.Until(s.pause)+time.Millisecond-1)/time.Millisecond))
		case waiting || res == again || res == short:
			// The process is on its way to the event that ends this, or past it and
			// about to run on; nothing tells when.
			wait = 1
			if spins++; spins < maxSpins {
				wait = 0
				unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			}
			continue
		default:
			wait = -1
		}
		spins = 0
	}
}

func (s *server) dispatch(tag uint64) error {
	switch tag {
	case tagStop:
		return errStopped
	case tagKeeper:
		return s.listen()
	case tagPages:
		return s.pagesCame()
	}
	if m := s.memories[tag]; m != nil {
		return s.events(m)
	}
	return nil // closed by an event of the same batch
}

// events reads what a userfaultfd has to tell. Events come before the faults that
// were read with them: having read them let the process go on, and the page that a
// fault asks for may be one that it has given up.
func (s *server) events(m *memory) error {
	batch, errno := m.journal.read(m.fd)
	switch errno {
	case 0:
	case unix.EAGAIN, unix.EINTR:
		return nil
	default:
		return m.failed("read events", 0, errno)
	}
	for b := batch; len(b) > 0; b = b[msgSize:] {
		switch e := decodeEvent(b); e.kind {
		case eventFault:
		case eventFork:
			if err := s.forked(m, e.child()); err != nil {
				return err
			}
		default:
			m.apply(e)
		}
	}
	for b := batch; len(b) > 0; b = b[msgSize:] {
		if e := decodeEvent(b); e.kind == eventFault {
			if err := s.serve(m, e.fault()); err != nil {
				return err
			}
		}
	}
	if m.journal.full() {
		return s.renewJournal(m)
	}
	return nil
}

func (s *server) renewJournal(m *memory) error {
	j, err := s.spares.take(s.cfg.Journal, m.snapshot(), s.number)
	if j == nil && err == nil {
		j, err = newJournal(s.cfg.Journal, m.snapshot(), s.number)
	}
	if err != nil {
		return err
	}
	if m.journal != nil {
		m.journal.close()
	}
	m.journal = j
	return nil
}

func (s *server) serve(m *memory, addr uint64) error {
	res, err := m.serve(addr)
	switch res {
	case again, short:
		m.waiting = append(m.waiting, addr)
		return err
	case elsewhere:
		m.absent = append(m.absent, addr)
		return err
	case gone:
		m.dead = true
	}
	s.progress.Faults++
	s.haste.fault(time.Now())
	s.prioritise(true)
	return err
}

// again answers faults that could not be answered at once, and says whether any is
// left.
func (s *server) again() (left bool, err error) {
	for _, m := range s.memories {
		if len(m.waiting) == 0 {
			continue
		}
		waiting := m.waiting
		m.waiting = nil
		for _, addr := range waiting {
			if err := s.serve(m, addr); err != nil {
				return true, err
			}
		}
		left = left || len(m.waiting) > 0
	}
	return left, nil
}

// forked takes a child in that an event brought. The keeper gets the descriptor
// before anything else is done.
func (s *server) forked(parent *memory, fd int) error {
	id := s.nextID
	s.nextID++
	s.tell(message{kind: forkedMsg, id: id, pid: parent.source.pid, parent: parent.id, fork: parent.forks}, fd)
	parent.forks++
	return s.take(parent.fork(id, fd))
}

// take begins to serve a memory that has no journal yet.
func (s *server) take(m *memory) error {
	s.memories[m.id] = m
	if err := s.renewJournal(m); err != nil {
		return err
	}
	return s.begin(m)
}

// begin begins to serve a memory.
func (s *server) begin(m *memory) error {
	s.memories[m.id] = m
	if m.forked {
		s.order = append(s.order, m)
	} else {
		s.order = append([]*memory{m}, s.order...)
	}
	s.progress.Total += m.source.pages
	return s.watch(m.fd, m.id)
}

// childTurn: of so many steps one goes to a child while there is a process that CRIU
// made. Many a child lives only until it calls exec.
const childTurn = 16

// fill fills in a batch of one memory, if CRIU has restored all of them: before that
// some areas are not registered, and what is filled in there is lost. It does so when the
// container runs, as the store gives nothing back before; without a keeper nobody would say.
// What processes fault near comes first.
func (s *server) fill() (res result, worked bool, err error) {
	if worked, err := s.fillForemost(); worked || err != nil {
		return filled, worked, err
	}
	if !s.finished || !s.ready || !s.runs && s.sock >= 0 || len(s.order) == 0 {
		return filled, false, nil
	}
	now := time.Now()
	if now.Before(s.pause) {
		return paced, false, nil
	}
	if !s.haste.is(now) {
		s.prioritise(false)
	}
	if err := s.beginFilling(); err != nil {
		return filled, false, err
	}
	among := s.turns()
	if res, worked, err = s.fillOneOf(among, (*memory).fillNear); worked || err != nil || res != filled {
		return res, worked, err
	}
	return s.fillOneOf(among, (*memory).fillOn)
}

// turns are the memories among which one is filled in now.
func (s *server) turns() []*memory {
	roots := 0
	for roots < len(s.order) && !s.order[roots].forked {
		roots++
	}
	if s.steps++; roots > 0 && s.steps%childTurn != 0 {
		return s.order[:roots]
	}
	return s.order
}

// fillOneOf has a step fill in a batch of the first memory, in turns, in which it can.
func (s *server) fillOneOf(among []*memory, step func(*memory) (result, error)) (res result, worked bool, err error) {
	for range among {
		s.turn++
		m := among[s.turn%len(among)]
		if m.done.left == 0 || m.dead {
			continue
		}
		left, began := m.done.left, time.Now()
		r, err := step(m)
		if err != nil {
			return r, true, err
		}
		if r == elsewhere {
			continue
		}
		s.rest(began, left-m.done.left)
		switch r {
		case filled:
			return filled, true, nil
		case gone:
			m.dead = true
			return filled, true, nil
		}
		res = r // let another one have the turn
	}
	return res, false, nil
}

// rest has the background pause after it has filled in so many pages.
func (s *server) rest(began time.Time, pages uint64) {
	now := time.Now()
	s.pause = now.Add(s.haste.work(began, now))
	if s.cfg.Rate > 0 {
		s.pause = later(s.pause, now.Add(time.Duration(pages*pageSize)*time.Second/time.Duration(s.cfg.Rate)))
	}
}

// later is the later of two moments.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// settle asks the keeper to let go of memories that need nothing more, and closes
// those of processes that are gone and those that the keeper has let go of. Until
// then they are served: as long as any duplicate is open, a fork waits to be read.
func (s *server) settle() error {
	for i := 0; i < len(s.order); i++ {
		m := s.order[i]
		if !m.dead && (m.done.left > 0 || !s.finished || len(m.waiting) > 0) {
			continue
		}
		s.order = append(s.order[:i], s.order[i+1:]...)
		i--
		m.asked = true
		s.tell(message{kind: doneMsg, id: m.id}, -1)
		if s.sock < 0 || m.dead {
			if err := s.end(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// end closes a memory.
func (s *server) end(m *memory) error {
	delete(s.memories, m.id)
	s.unwanted(m.source)
	if g := m.source.giver; g != nil && m.done.left > 0 {
		g.ledger.touch(0, m.source.pages) // others may have been waited for by it alone
	}
	s.done += m.source.pages
	// The keeper's duplicate may still be open, and epoll watches as long.
	err := unix.EpollCtl(s.poll, unix.EPOLL_CTL_DEL, m.fd, nil)
	return errors.Join(err, unix.Close(m.fd), m.journal.remove())
}

// source is what the images have of a process.
func (s *server) source(pid int32) (*source, error) {
	if src := s.sources[pid]; src != nil {
		return src, nil
	}
	return nil, fmt.Errorf("CRIU restores a process %d of which there is no pagemap: %w", pid, images.ErrFormat)
}

// fresh takes a memory in as CRIU made it.
func (s *server) fresh(h handed) error {
	src, err := s.source(h.pid)
	if err != nil {
		unix.Close(h.fd)
		return err
	}
	if src.space != nil {
		gave, err := s.cfg.Reader.GaveBack(src.space)
		if gave {
			err = fmt.Errorf("process %d is restored anew: %w", h.pid, ErrGivenBack)
		}
		if err != nil {
			unix.Close(h.fd)
			return err
		}
	}
	m := &memory{id: h.id, fd: h.fd, source: src, where: newTranslation(src.hull())}
	m.resetDone()
	return s.take(m)
}
