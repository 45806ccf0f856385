package track

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

var (
	// ErrClosed is what a closed tracker returns.
	ErrClosed = errors.New("tracker is closed")
	// ErrOtherTracker says that a userfaultfd that is not ours write-protects the
	// process, that of an earlier migration which is not closed yet, or its own.
	ErrOtherTracker = errors.New("memory is write-protected by another userfaultfd: close the other tracker, or wait until it is closed")
)

// Process is a process to track: a thread group with an address space.
type Process struct {
	PID   int // as this process' pid namespace has it
	Space pagestream.Space
}

// Options of a Tracker.
type Options struct {
	// List returns all processes that the containers have at the moment. It is
	// called once by each Collect and CollectFrozen.
	List func() ([]Process, error)
	// Inject creates a userfaultfd in a process: Inject of this package, or that
	// of a Helper.
	Inject func(ctx context.Context, pid int) (Injection, error)
	// Patience is how long a round waits for a process that cannot be stopped. Zero: a quarter of a second.
	Patience time.Duration
	// Log gets what is not worth an error. Nil: the default logger.
	Log *slog.Logger
}

// Round is what one Collect or CollectFrozen found.
type Round struct {
	Processes []ProcessRound // in the order of List
	// Gone are the spaces whose process ended. A space may be here and in
	// Processes as well: the process that has its id now is another.
	Gone []pagestream.Space

	Pages     uint64          // dirty pages in all
	Ranges    int             // dirty ranges in all
	Untracked uint64          // sum of ProcessRound.Untracked
	New       int             // processes that were armed
	Stops     []time.Duration // how long a thread stood still for each injection
	Took      time.Duration   // the whole call
}

// ProcessRound is what a round found in one process.
type ProcessRound struct {
	Process
	// Dirty are the pages to copy, ascending, none twice: all that may have
	// changed since the last round reported them. Some may be gone by the time
	// they are read, see pagemap.ReadMemory.
	Dirty []pagestream.Range
	Pages uint64 // in Dirty
	// Written are those of Dirty that were written since the last round, as opposed
	// to those that were put off, see Defer. Only Collect tells them.
	Written []pagestream.Range
	// Untracked counts pages that cannot be tracked. They are in Dirty only in
	// CollectFrozen's round, when they no longer change.
	Untracked uint64
	// Present are the pages that CRIU would dump of the lazy areas Looked, ascending:
	// those that are in memory or in swap, but for the page of zeros and guard pages, which
	// are Guards as far as the kernel tells them. Only CollectFrozen tells these.
	Present, Guards, Looked []pagestream.Range
	// New says that the process was armed in this round, or armed again after an
	// exec: Dirty has all its pages, what was copied before is void.
	New bool
	// Shares is the space that has this process' pages, if it shares its memory
	// with that one (a child of vfork); CRIU cannot dump it in this state.
	Shares pagestream.Space
	// Err says why the process is not tracked: its pages are then all Untracked,
	// and the next Collect tries again. It is never set by CollectFrozen, which
	// fails if it cannot say what a process' pages are.
	Err error
}

// Tracker tracks the memory of a changing set of processes. The rounds it
// returns fulfil: when all ranges of all rounds up to and including
// CollectFrozen's are copied, each after its round and in their order, the last
// copy of every page that is present in a lazy area of the frozen processes is
// what the page holds. Copies of pages that are not present then are void.
//
// A page that CRIU dumps a moment later although it was never reported holds
// zeros: khugepaged fills holes also while processes are frozen, but only in
// areas that are not registered (hpage_collapse_scan_pmd in the kernel's
// mm/khugepaged.c), that is, which are newer than the last Collect.
//
// What was written is read off the kernel's page tables and areas each time, and
// never concluded from an earlier round: what is not under our write-protection
// counts as dirty.
//
// Writes by devices go past the page tables; inFlight says what is done about
// them.
type Tracker struct {
	opts Options

	mu      sync.Mutex // guards all below, and orders rounds
	procs   map[int]*process
	closed  bool
	free    []*scratch
	closers sync.WaitGroup // descriptors being closed in the background
}

// process is one tracked process.
//
// States: unarmed (uffd is closedDescriptor) -> armed (uffd is open) -> unarmed
// after an exec or an error -> ...; sharing (shares is set, unarmed) as long as
// another armed process has the same memory. Removed when it ended.
type process struct {
	Process
	pidfd      int
	uffd       int
	registered bool     // an area was registered with uffd
	void       bool     // copies are lost: the next round reports everything
	shares     *process // whose memory it shares

	notBefore time.Time // when to try again to arm it
	refused   error     // why it was not armed

	inFlight inFlight
	suspects []pagestream.Range // what the next round reports, written or not: ascending, disjoint
	deferred []pagestream.Range // the same, but by Defer
}

// scratch is the memory that scanning a process takes, kept for the next one.
type scratch struct {
	text    []byte
	vmas    []pagemap.VMA
	regions []pagemap.Region
	areas   areas
}

// regionsPerScan is the length of the vector that a PAGEMAP_SCAN fills: 384 KiB.
const regionsPerScan = 16 << 10

// New returns a tracker that tracks nothing yet. Close it.
func New(opts Options) *Tracker {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Patience == 0 {
		opts.Patience = injectPatience
	}
	return &Tracker{opts: opts, procs: map[int]*process{}}
}

// Collect does a round while the processes run: it arms processes that are new,
// registers areas that are new, and reads and renews the write-protection of all
// of them. It stops one thread of each new process for the injection and nothing
// else. The processes must not be frozen by a cgroup meanwhile.
//
// An error means that there is no round; what it had found so far is reported
// again by the next one. A process that cannot be tracked is no error, see
// ProcessRound.Err. Errors wrap pagemap.ErrNoPagemapScan and
// pagemap.ErrNoWPAsync on kernels that cannot track.
func (t *Tracker) Collect(ctx context.Context) (Round, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	begin := time.Now()
	var r Round
	procs, err := t.begin(&r)
	if err != nil {
		return Round{}, err
	}
	s := t.takeScratch()
	defer t.giveScratch(s)
	for i, p := range procs {
		if err := ctx.Err(); err != nil {
			for _, done := range procs[:i] {
				done.void = true
			}
			return Round{}, fmt.Errorf("round of dirty pages: %w", err)
		}
		pr := t.collect(ctx, p, s, &r)
		if errors.Is(pr.Err, ErrGone) && ended(p.pidfd) {
			t.drop(p)
			r.Gone = append(r.Gone, p.Space)
			continue
		}
		r.Processes = append(r.Processes, pr)
	}
	t.settle(&r)
	r.Took = time.Since(begin)
	return r, nil
}

// begin checks that tracking is possible and brings the processes up to date.
func (t *Tracker) begin(r *Round) ([]*process, error) {
	if t.closed {
		return nil, ErrClosed
	}
	for _, probe := range []func() error{pagemap.ProbeScan, pagemap.ProbeWPAsync} {
		if err := probe(); err != nil {
			return nil, err
		}
	}
	listed, err := t.opts.List()
	if err != nil {
		return nil, fmt.Errorf("list the processes to track: %w", err)
	}
	return t.reconcile(listed, r), nil
}

// reconcile makes the tracked processes those that are listed and alive, and
// returns them in the order of the list. A pid that another process has now is
// told by the pidfd of the one that had it.
func (t *Tracker) reconcile(listed []Process, r *Round) []*process {
	wanted := make(map[int]pagestream.Space, len(listed))
	for _, l := range listed {
		wanted[l.PID] = l.Space
	}
	for pid, p := range t.procs {
		if space, ok := wanted[pid]; !ok || space != p.Space || ended(p.pidfd) {
			t.drop(p)
			r.Gone = append(r.Gone, p.Space)
		}
	}
	procs := make([]*process, 0, len(listed))
	for _, l := range listed {
		p := t.procs[l.PID]
		if p == nil {
			if p = adopt(l); p == nil {
				continue
			}
			t.procs[l.PID] = p
		}
		procs = append(procs, p)
	}
	return procs
}

// adopt begins to follow a process; nil if it ended already.
func adopt(l Process) *process {
	pidfd, err := unix.PidfdOpen(l.PID, 0)
	if err != nil {
		return nil
	}
	if ended(pidfd) {
		unix.Close(pidfd)
		return nil
	}
	return &process{Process: l, pidfd: pidfd, uffd: closedDescriptor}
}

// ended says whether the process of a pidfd has no thread any more.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// drop forgets a process. Its userfaultfd is closed in the background: that
// takes long if the process lives on outside of the containers.
func (t *Tracker) drop(p *process) {
	delete(t.procs, p.PID)
	unix.Close(p.pidfd)
	for _, q := range t.procs {
		if q.shares == p {
			q.shares = nil
		}
	}
	if fd := p.uffd; fd != closedDescriptor {
		t.closers.Go(func() { unix.Close(fd) })
	}
}

// settle sums up a round.
func (t *Tracker) settle(r *Round) {
	for i := range r.Processes {
		p := &r.Processes[i]
		r.Pages += p.Pages
		r.Ranges += len(p.Dirty)
		r.Untracked += p.Untracked
		if p.New {
			r.New++
		}
		if p.Err != nil && !errors.Is(p.Err, ErrGone) {
			t.opts.Log.Warn("process is not tracked", "pid", p.PID, "space", p.Space.String(), "pages", p.Untracked, "error", p.Err)
		}
	}
}

// Invalidate says that the copies made of a space are lost: the next round
// reports all its pages.
func (t *Tracker) Invalidate(space pagestream.Space) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.procs {
		if p.Space == space {
			p.void = true
		}
	}
}

// Defer says that pages of the last Collect's round are not copied after it: the
// next round reports them, written or not, unless they are gone. ranges ascend and
// are disjoint.
func (t *Tracker) Defer(space pagestream.Space, ranges []pagestream.Range) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.procs {
		if p.Space == space {
			p.deferred = pagestream.Union(p.deferred, ranges)
		}
	}
}

// Close ends the tracking and takes the write-protection off the processes that
// still live. That takes the kernel about 50 ms for each GB of memory that lives
// on, so it must not be called while they are frozen: close after the thaw or
// after they were killed, or use CloseAsync. Nothing of the tracker is left in
// the processes afterwards. Closing twice is fine.
func (t *Tracker) Close() {
	t.mu.Lock()
	for _, p := range t.procs {
		t.drop(p)
	}
	t.closed = true
	t.free = nil
	t.mu.Unlock()
	t.closers.Wait()
}

// CloseAsync closes the tracker in the background, once a round that is going on
// has ended, and returns a channel that is closed when that is done.
func (t *Tracker) CloseAsync() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.Close()
	}()
	return done
}

func (t *Tracker) takeScratch() *scratch {
	if n := len(t.free); n > 0 {
		s := t.free[n-1]
		t.free = t.free[:n-1]
		return s
	}
	return &scratch{regions: make([]pagemap.Region, regionsPerScan)}
}

func (t *Tracker) giveScratch(s *scratch) { t.free = append(t.free, s) }
