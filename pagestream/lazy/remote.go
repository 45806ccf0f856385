package lazy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream/demand"
	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
)

// Remote says how a server gets the pages that were left at the source.
type Remote struct {
	// Listener takes the connections that the source makes, one after the other. Serve
	// closes it.
	Listener *net.UnixListener
	// Migration and Token are those that the source has to name.
	Migration string
	Token     [32]byte
	// Deadline is how long the source may be away while pages are missing.
	Deadline time.Duration
}

// ErrSourceLost is wrapped by the error of a server, and of its keeper, whose source was
// away for too long, or cannot give what is missing: the memory is lost.
var ErrSourceLost = errors.New("pages are missing and their source is lost")

// around is how many pages are asked for with one that a process waits for, itself
// among them.
const around = 16

// fetcher gets the missing pages of all processes of a container, over one connection
// at a time, in goroutines of its own.
type fetcher struct {
	cfg       Remote
	container uint16
	log       *slog.Logger
	arrived   int // eventfd that is written when pages have come
	over      sync.WaitGroup

	mu       sync.Mutex // guards what follows
	sources  map[uint32]*remotePages
	order    []*remotePages
	asking   *demand.Asking
	missing  uint64 // pages that are not here, and wanted
	faults   uint64
	longest  time.Duration // that a process has waited for one
	begun    bool          // the background may go on
	finished bool          // nothing more is needed
	traffic  traffic
	near     vicinities
	lost     error         // why there is no hope
	parted   chan struct{} // closed when the source knows that it is not needed, or never will
}

func newFetcher(cfg Remote, container uint16, log *slog.Logger, arrived int) *fetcher {
	return &fetcher{
		cfg: cfg, container: container, log: log, arrived: arrived,
		sources: make(map[uint32]*remotePages), parted: make(chan struct{}),
	}
}

// add makes a source of which pages are missing get them here. It is called before run.
func (f *fetcher) add(r *store.Reader, sp *store.SealedSpace, src *source) error {
	landing, err := r.OpenLanding(sp)
	if err != nil {
		return err
	}
	p := &remotePages{presence: newPresence(src.pages), fetcher: f, source: src, landing: landing, gone: newBitmap(src.pages), wanted: make(map[uint64]waiting)}
	for _, left := range sp.Left() {
		src.each(left.Start, left.End(), func(first, n uint64) {
			for i := first; i < first+n; i++ {
				if !landing.Landed(src.address(i)) {
					p.clear(i, 1)
					f.missing++
				}
			}
		})
	}
	p.restart()
	src.from = p
	f.sources[uint32(src.pid)] = p
	f.order = append(f.order, p)
	return nil
}

// run takes connections until nothing is missing, or there is no hope. The background
// begins so long after restored is closed.
func (f *fetcher) run(ctx context.Context, restored <-chan struct{}, calm time.Duration) {
	f.over.Go(func() {
		defer f.cfg.Listener.Close()
		defer context.AfterFunc(ctx, func() { f.cfg.Listener.SetDeadline(time.Unix(1, 0)) })()
		err := f.serve(ctx)
		f.mu.Lock()
		if err != nil && ctx.Err() == nil {
			f.lost = fmt.Errorf("%w: %w", ErrSourceLost, err)
		}
		f.mu.Unlock()
		close(f.parted)
		f.signal()
	})
	f.over.Go(func() {
		select {
		case <-restored:
		case <-ctx.Done():
			return
		}
		wait := time.NewTimer(calm)
		defer wait.Stop()
		select {
		case <-wait.C:
			f.begin()
		case <-ctx.Done():
		}
	})
}

// serve takes one connection after the other. It returns nil when the source knows that
// it is needed no more.
func (f *fetcher) serve(ctx context.Context) error {
	alone := time.Now()
	for {
		deadline := alone.Add(f.cfg.Deadline)
		f.cfg.Listener.SetDeadline(deadline)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		conn, err := f.cfg.Listener.Accept()
		if err != nil {
			f.mu.Lock()
			missing := f.missing
			f.mu.Unlock()
			return fmt.Errorf("no connection from it for %v, %d pages are missing: %w", f.cfg.Deadline, missing, err)
		}
		conn.SetDeadline(time.Now().Add(demand.Silence))
		if err := f.welcome(conn); err != nil {
			f.log.Warn("fault server: a connection of the source is refused", "error", err)
			conn.Close()
			continue
		}
		conn.SetDeadline(time.Time{})
		err = f.converse(ctx, conn)
		if err == nil || errors.Is(err, demand.ErrRefused) {
			return err
		}
		f.log.Warn("fault server: the source is away, waiting for it", "error", err)
		alone = time.Now()
	}
}

// welcome hears who makes a connection, and answers.
func (f *fetcher) welcome(conn net.Conn) error {
	h, err := demand.ReadHello(conn)
	if err != nil {
		return err
	}
	var why string
	switch {
	case h.Version != demand.Version:
		why = fmt.Sprintf("version %d is spoken here, not %d", demand.Version, h.Version)
	case h.Migration != f.cfg.Migration || h.Token != f.cfg.Token || h.Container != uint32(f.container):
		why = "the migration is another"
	}
	if err := demand.WriteWelcome(conn, why); err != nil {
		return err
	}
	if why != "" {
		return errors.New(why)
	}
	return nil
}

// converse asks on a connection until it ends.
func (f *fetcher) converse(ctx context.Context, conn net.Conn) error {
	a := demand.NewAsking(conn)
	f.mu.Lock()
	f.asking, f.near = a, nil
	f.traffic.restart(time.Now())
	for _, p := range f.order {
		p.restart()
	}
	if f.finished {
		a.Status(0, f.faults)
		a.Done()
	}
	f.pump()
	f.mu.Unlock()
	f.signal() // faults that wait are asked for again
	err := a.Run(ctx, f.land, f.beat)
	f.mu.Lock()
	f.asking = nil
	f.mu.Unlock()
	return err
}

// beat says how far this side is.
func (f *fetcher) beat(a *demand.Asking) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a.Status(f.missing, f.faults)
}

// land takes pages in.
func (f *fetcher) land(pid uint32, start uint64, content [][]byte) error {
	p := f.sources[pid]
	if p == nil {
		return fmt.Errorf("pages of process %d, which lacks none: %w", pid, demand.ErrProtocol)
	}
	numbers := make([]uint64, 0, demand.MaxPages)
	for k, page := range content {
		addr := start + uint64(k)*pageSize
		i, ok := p.source.number(addr)
		if !ok {
			return fmt.Errorf("page %#x of process %d was not asked for: %w", addr, pid, demand.ErrProtocol)
		}
		if p.has(i) {
			continue // it came twice
		}
		if err := p.landing.Put(addr, page); err != nil {
			return err
		}
		p.set(i)
		numbers = append(numbers, i)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, i := range numbers {
		p.settled.set(i, 1)
		if w, waited := p.wanted[i]; waited {
			f.longest = max(f.longest, now.Sub(w.since))
			delete(p.wanted, i)
		}
		if !p.gone.has(i) {
			f.missing--
		}
	}
	f.traffic.answered(request{pid, start, uint64(len(content))}, now)
	f.pump()
	f.signal()
	return nil
}

// pump asks for pages in the background, as many as may be under way: near those that
// processes waited for first, and all others when it may go on. mu is held.
func (f *fetcher) pump() {
	if f.asking == nil {
		return
	}
	for now := time.Now(); ; {
		room := f.traffic.room(now)
		if room == 0 || f.askNext(room) == 0 {
			return
		}
	}
}

// askNext asks for up to so many pages in the background, and returns how many; mu is held.
func (f *fetcher) askNext(most uint64) uint64 {
	if p, i, end := f.near.next(); p != nil {
		return p.ask(i, min(end, i+most), false)
	}
	if !f.begun {
		return 0
	}
	for _, p := range f.order {
		if n := p.askNext(most); n > 0 {
			return n
		}
	}
	return 0
}

// begin lets the background go on.
func (f *fetcher) begin() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		f.begun = true
		f.pump()
	}
}

// finish tells the source, now or when it is there again, that nothing more is needed.
func (f *fetcher) finish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.finished {
		return
	}
	f.finished = true
	f.log.Info("fault server: nothing is missing any more", "faults", f.faults, "longest wait", f.longest, "round trip", f.traffic.roundTrip)
	if f.asking != nil {
		f.asking.Status(0, f.faults)
		f.asking.Done()
	}
}

// state is how much is missing, how many faults waited for the source, and why there is no
// hope, if there is none.
func (f *fetcher) state() (missing, faults uint64, lost error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.missing, f.faults, f.lost
}

// isParted says whether the source is done with, one way or the other.
func (f *fetcher) isParted() bool {
	select {
	case <-f.parted:
		return true
	default:
		return false
	}
}

// signal wakes the server's thread.
func (f *fetcher) signal() { unix.Write(f.arrived, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// close waits for the goroutines, whose context has ended, and gives the landings up.
func (f *fetcher) close() error {
	f.over.Wait()
	var err error
	for _, p := range f.order {
		err = errors.Join(err, p.landing.Close())
	}
	return err
}
